// The console's frame: the key, colours, and which page the address names.
import * as api from "./api.js";
import { el } from "./page.js";
import { showEnvironment } from "./environment.js";
import { showOverview } from "./overview.js";
import { showTry } from "./try.js";
import { showUser } from "./user.js";

const $ = (id) => document.getElementById(id);
let leaving = new AbortController();

// Every deed of a page goes through here: a problem is shown, and the next success clears it.
async function attempt(deed) {
  try {
    await deed();
    $("problem").textContent = "";
  } catch (problem) {
    if (problem.name !== "AbortError") $("problem").textContent = problem.message;
  }
}

function route() {
  const parts = location.hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decodeURIComponent);
  const [kind, name, , user] = parts;
  if (kind === "environments" && user !== undefined) return { show: showUser, name, user, title: user };
  if (kind === "environments" && name !== undefined) return { show: showEnvironment, name, title: name };
  if (kind === "try" && name !== undefined) return { show: showTry, name, title: `try ${name}` };
  return { show: showOverview, title: "overview" };
}

function crumbs({ name, user, show }) {
  const links = [el("a", { href: "#/" }, "Overview")];
  if (name !== undefined) links.push(el("a", { href: `#/environments/${encodeURIComponent(name)}` }, name));
  if (user !== undefined) links.push(el("span", { "aria-current": "page" }, user));
  if (show === showTry) links.push(el("span", { "aria-current": "page" }, "try it"));
  $("crumbs").replaceChildren(...links.flatMap((link, index) => (index ? [" / ", link] : [link])));
}

async function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const here = route();
  document.title = `${here.title} · psharelora console`;
  crumbs(here);
  await attempt(async () => {
    const page = el("div", { class: "page", "aria-busy": "true" });
    $("view").replaceChildren(page);
    await here.show({ ...here, page, signal, attempt });
    page.setAttribute("aria-busy", "false");
  });
}

const SCHEMES = ["automatic", "light", "dark"];
function useScheme(name) {
  document.documentElement.style.colorScheme = name === "automatic" ? "" : name;
  $("scheme").textContent = `Colours: ${name}`;
  localStorage.setItem("psharelora-colours", name);
}

$("scheme").addEventListener("click", () => {
  const now = localStorage.getItem("psharelora-colours") ?? "automatic";
  useScheme(SCHEMES[(SCHEMES.indexOf(now) + 1) % SCHEMES.length]);
});
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  api.useKey($("key").value.trim());
  show();
});
addEventListener("hashchange", () => {
  show();
  $("view").focus();
});

useScheme(SCHEMES.includes(localStorage.getItem("psharelora-colours")) ? localStorage.getItem("psharelora-colours") : "automatic");
$("key").value = api.key();
show();
