// Requests that give what is on the screen: their parameters, and the same in a shell and in two languages.

// Formats whose polygons a person edits.
const TOOLS = ["labelme", "coco", "labelstudio"];

/** Parameters of a format, as far as it depends on choices, opacity and the classes that are shown. */
export function parametersFor(format, { choices, opacity, legend, name }) {
  const parameters = { format, ...choices.parameters };
  if (format === "overlay") {
    // No class is shown as all of them, invisible: the service needs at least one to keep.
    parameters.alpha = String(legend.shown.length ? opacity : 0);
  }
  if (TOOLS.includes(format)) {
    Object.assign(parameters, { simplify: "1", name });
  }
  if ((format === "cutout" || !legend.isWhole) && legend.shown.length) {
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

/** The same in Python, with the package requests. */
export function pythonCode(url, { fileName, output, headers, needsKey }) {
  const fields = Object.entries(headers).map(([name, value]) => `${JSON.stringify(name)}: ${JSON.stringify(value)}`);
  if (needsKey) {
    fields.push('"Authorization": f"Bearer {os.environ[\'ECENET_API_KEY\']}"');
  }
  const given = fields.length ? `, headers={${fields.join(", ")}}` : "";
  return [
    ...(needsKey ? ["import os", ""] : []),
    "import requests",
    "",
    `with open(${JSON.stringify(fileName)}, "rb") as image:`,
    `    answer = requests.post(${JSON.stringify(url)}, files={"file": image}${given})`,
    "answer.raise_for_status()",
    `with open(${JSON.stringify(output)}, "wb") as file:`,
    "    file.write(answer.content)",
  ].join("\n");
}

/** The same in JavaScript, in a browser. */
export function javascriptCode(url, { headers, needsKey }) {
  const fields = Object.entries(headers).map(([name, value]) => `${JSON.stringify(name)}: ${JSON.stringify(value)}`);
  if (needsKey) {
    fields.push("Authorization: `Bearer ${key}`");
  }
  const given = fields.length ? `, headers: { ${fields.join(", ")} }` : "";
  return [
    "const body = new FormData();",
    'body.append("file", document.querySelector("input[type=file]").files[0]);',
    `const answer = await fetch(${JSON.stringify(url)}, { method: "POST", body${given} });`,
    "if (!answer.ok) throw new Error((await answer.json()).detail);",
    "const picture = await answer.blob();",
  ].join("\n");
}

/** In quotes where curl would take a part of the name for something else. */
function quoteForCurl(name) {
  return /[",;\\]/.test(name) ? `"${name.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"` : name;
}

function shellQuote(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
