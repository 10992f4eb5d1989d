// Requests that give what is on the screen: their parameters, and a line for a shell.

/** Parameters of a format, as far as it depends on opacity and on the classes that are shown. */
export function parametersFor(format, { opacity, legend }) {
  const parameters = { format };
  if (format === "overlay") {
    // No class is shown as all of them, invisible: the service needs at least one to keep.
    parameters.alpha = String(legend.shown.length ? opacity : 0);
  }
  if (!legend.isWhole && legend.shown.length) {
    parameters.classes = legend.shown.map(({ id, name }) => (name.includes(",") ? id : name)).join(",");
  }
  return parameters;
}

/** A curl command; the file is named as the user's is, wherever it lies. */
export function curlCommand(url, fileName, output, needsKey) {
  const parts = ["curl", "-F", shellQuote(`file=@${quoteForCurl(fileName)}`)];
  if (needsKey) {
    parts.push("-H", '"Authorization: Bearer $ECENET_API_KEY"');
  }
  return [...parts, shellQuote(url), "-o", shellQuote(output)].join(" ");
}

/** In quotes where curl would take a part of the name for something else. */
function quoteForCurl(name) {
  return /[",;\\]/.test(name) ? `"${name.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"` : name;
}

function shellQuote(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
