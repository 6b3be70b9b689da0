"""/docs: the OpenAPI document as one page that needs nothing from elsewhere.

FastAPI's own page loads its scripts from a public CDN, which a database network does not reach.
"""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Vecmirror HTTP API</title>
<style>
 body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
 details { border: 1px solid #8884; border-radius: 6px; margin: .5rem 0; padding: .5rem .8rem }
 summary { cursor: pointer } code, pre { font: 14px/1.45 ui-monospace, monospace }
 pre { overflow: auto; background: #8881; padding: .6rem; border-radius: 4px }
 b.verb { display: inline-block; min-width: 4.5rem } td { padding: .1rem .8rem .1rem 0;
 vertical-align: top } :root { color-scheme: light dark }
</style>
<h1>Vecmirror HTTP API</h1>
<p id="about"></p><p>The machine-readable form is <a href="openapi.json">openapi.json</a>.</p>
<main id="calls"></main>
<script>
const make = (tag, text, cls) => {
  const e = document.createElement(tag); e.textContent = text ?? ""; if (cls) e.className = cls;
  return e;
};
const table = rows => {
  const t = make("table");
  for (const row of rows) {
    const tr = make("tr");
    row.forEach((cell, i) => { const td = make("td"); td.append(make(i ? "span" : "code", cell));
      tr.append(td); });
    t.append(tr);
  }
  return t;
};
const kind = s => s.$ref ? s.$ref.split("/").pop() : s.anyOf ? s.anyOf.map(kind).join(" | ")
  : s.enum ? s.enum.map(v => JSON.stringify(v)).join(" | ")
  : s.type === "array" ? "[" + kind(s.items ?? {}) + "]" : s.type ?? "any";
const shape = (doc, s) => {
  const found = s.$ref ? doc.components.schemas[kind(s)] : s;
  if (!found.properties) return make("p", found.description ?? kind(found));
  const needed = found.required ?? [];
  return table(Object.entries(found.properties).map(([name, p]) =>
    [name + (needed.includes(name) ? " *" : ""), kind(p), p.description ?? ""]));
};
const call = (doc, path, verb, op) => {
  const box = make("details"), head = make("summary");
  head.append(make("b", verb.toUpperCase(), "verb"), make("code", path), " ", op.summary ?? "");
  box.append(head, make("p", op.description));
  if (op.parameters?.length) box.append(make("h4", "Parameters"), table(op.parameters.map(p =>
    [p.name, p.in + ", " + kind(p.schema), p.description ?? ""])));
  for (const [type, body] of Object.entries(op.requestBody?.content ?? {}))
    box.append(make("h4", "Body: " + type), shape(doc, body.schema));
  box.append(make("h4", "Answers"));
  box.append(table(Object.entries(op.responses).map(([s, r]) => [s, r.description])));
  for (const body of Object.values(op.responses["200"]?.content ?? {}))
    box.append(shape(doc, body.schema));
  return box;
};
fetch("openapi.json").then(r => r.json()).then(doc => {
  document.getElementById("about").textContent = doc.info.description;
  for (const [path, verbs] of Object.entries(doc.paths))
    for (const [verb, op] of Object.entries(verbs))
      document.getElementById("calls").append(call(doc, path, verb, op));
});
</script>
</html>
"""


@router.get("/docs", response_class=HTMLResponse)
async def docs() -> HTMLResponse:
    """Return the page."""
    return HTMLResponse(_PAGE)
