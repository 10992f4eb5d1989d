// Requests that give what is on the screen: their parameters, and a line for a shell.

/** Parameters of a format, as far as it depends on choices, opacity and the classes that are shown. */
export function parametersFor(format, { choices, opacity, legend }) {
  const parameters = { format, ...choices.parameters };
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
export function curlCommand(url, { fileName, output, headers, needsKey }) {
  const parts = ["curl", "-F", shellQuote(`file=@${quoteForCurl(fileName)}`)];
  for (const [name, value] of Object.entries(headers)) {
    parts.push("-H", shellQuote(`${name}: ${value}`));
  }
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
