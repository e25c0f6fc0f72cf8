// What both pages use: elements without innerHTML, so that no name can become markup.
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.map((child) => child ?? ""));
  return node;
}

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export function table(caption, heads, rows) {
  const numeric = heads.map((head) => head.startsWith("#"));
  const cell = (tag, content, index) => el(tag, numeric[index] ? { class: "number" } : {}, content);
  return el("table", {},
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, ...heads.map((head, index) => cell("th", head.replace(/^#/, ""), index)))),
    el("tbody", {}, ...rows.map((row) => el("tr", row.attributes ?? {}, ...row.cells.map((c, i) => cell("td", c, i))))));
}
