// Elements, formulas and numbers.

export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  return filled(element, attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(element, attributes, children) {
  set(element, attributes);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Attributes; a function is a listener, null takes the attribute away.
export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === null || value === undefined || value === false) element.removeAttribute(name);
    else element.setAttribute(name, value === true ? "" : value);
  }
  return element;
}

export const byId = (id) => document.getElementById(id);

// ── numbers ─────────────────────────────────────────────────────────────────────────────────────

const SUPER = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
const SUB = { 0: "₀", 1: "₁", 2: "₂", 3: "₃", 4: "₄", 5: "₅", 6: "₆", 7: "₇", 8: "₈", 9: "₉" };
export const raised = (n) => String(n).replace(/./g, (c) => SUPER[c] ?? c);
export const lowered = (n) => String(n).replace(/./g, (c) => SUB[c] ?? c);

// 0.5933, −0.0381, 2.3 × 10⁻⁵, 1 240: so many digits that matter.
export function show(v, digits = 4) {
  if (v === null || v === undefined || Number.isNaN(v)) return "–";
  if (!Number.isFinite(v)) return v > 0 ? "∞" : "−∞";
  if (v === 0) return "0";
  const size = Math.abs(v);
  let text;
  if (size >= 1e6 || size < 1e-3) {
    const [head, power] = v.toExponential(Math.max(digits - 2, 0)).split("e");
    text = `${trimmed(head)} × 10${raised(Number(power))}`;
  } else {
    text = Number.isInteger(v) ? String(v) : trimmed(v.toPrecision(size >= 1000 ? Math.max(digits, 5) : digits));
  }
  return text.replace("-", "−");
}
const trimmed = (text) => (text.includes(".") && !text.includes("e") ? text.replace(/\.?0+$/, "") : text);

// Short enough for half a circle: .59, −.04, 1.2, 12, 3e-5
export function brief(v) {
  const size = Math.abs(v);
  if (v === 0) return "0";
  let text;
  if (size < 0.0005) text = v.toExponential(0).replace("e-", "e−");
  else if (size < 0.0095) text = v.toFixed(3);
  else if (size < 9.95) text = v.toFixed(2);
  else text = size < 1e4 ? v.toFixed(0) : v.toExponential(0).replace("+", "");
  return text.replace(/^(-?)0\./, "$1.").replace("-", "−");
}

export function bytes(n) {
  if (n < 1000) return `${n} bytes`;
  return n < 1e6 ? `${(n / 1e3).toPrecision(3)} kB` : `${(n / 1e6).toPrecision(3)} MB`;
}

// A number as it is read by eyes, with all of its digits for whoever reads the page.
export const number = (v, digits = 4) => el("data", { value: v }, show(v, digits));

// ── formulas ────────────────────────────────────────────────────────────────────────────────────

const MATHML = "http://www.w3.org/1998/Math/MathML";
export function ml(name, attributes = {}, ...children) {
  return filled(document.createElementNS(MATHML, name), attributes, children.map(atom).flat());
}

// Words become identifiers, numbers numbers, and what stands between them operators.
function atom(part) {
  if (typeof part === "number") return [valued(part)];
  if (typeof part !== "string") return [part];
  const found = part.match(/[\p{L}′ₐ-ₜ₀-₉⁰-⁹¹²³]+|[\d.]+|\s+|./gu) ?? [];
  return found.filter((token) => token.trim()).map((token) => {
    if (/^[\d.]+$/.test(token)) return raw("mn", token);
    return raw(/^[\p{L}]/u.test(token) ? "mi" : "mo", token);
  });
}
function raw(name, text) {
  const element = document.createElementNS(MATHML, name);
  element.textContent = text;
  return element;
}

// A number in a formula, in brackets where it is negative and not alone.
export function valued(v, alone = false, digits = 4) {
  const element = raw("mn", show(v, digits));
  element.setAttribute("data-value", v);
  return v < 0 && !alone ? row(raw("mo", "("), element, raw("mo", ")")) : element;
}
export const row = (...parts) => ml("mrow", {}, ...parts);
export const sub = (a, b) => ml("msub", {}, row(a), row(b));
export const sup = (a, b) => ml("msup", {}, row(a), row(b));
export const both = (a, b, c) => ml("msubsup", {}, row(a), row(b), row(c));
export const frac = (a, b) => ml("mfrac", {}, row(a), row(b));

// Lines of [left, right, right, ...], aligned at their equals signs.
export function equations(lines, label) {
  const rows = lines.filter(Boolean).flatMap(([left, ...rights]) =>
    rights.map((right, i) =>
      ml("mtr", {}, ml("mtd", {}, i ? "" : row(left)), ml("mtd", {}, row("=")), ml("mtd", {}, row(right))),
    ),
  );
  // on a phone it is wider than its place: by keyboard it is scrolled, too
  return el("div", { class: "formula", tabindex: "0", role: "group", "aria-label": label ?? "equations" }, ml("math", {}, ml("mtable", {}, ...rows)));
}
