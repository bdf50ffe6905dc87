"use strict";
// Sorting and filtering. Without it the page is complete, only fixed.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // ---- sorting: within each tbody, missing values last, equal ones and a third click in the first order

  const texts = new Intl.Collator("en", { numeric: true });
  const first = new Map(all("tbody").map((body) => [body, [...body.rows]]));

  function order(column, numeric, sign) {
    const value = (row) => {
      const cell = row.cells[column];
      return numeric ? parseFloat(cell.dataset.value) : cell.textContent.trim();
    };
    const missing = (v) => (numeric ? Number.isNaN(v) : v === "" || v === "–");
    return (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (missing(x) || missing(y)) return missing(x) - missing(y);
      return sign * (numeric ? x - y : texts.compare(x, y));
    };
  }

  function sort(heading) {
    const table = heading.closest("table");
    const numeric = heading.dataset.sort === "number";
    const turns = numeric ? ["descending", "ascending"] : ["ascending", "descending"];
    const next = turns[turns.indexOf(heading.getAttribute("aria-sort")) + 1]; // undefined after the second
    for (const other of all("th[aria-sort]", table)) other.removeAttribute("aria-sort");
    if (next) heading.setAttribute("aria-sort", next);
    const compare = order(heading.cellIndex, numeric, next === "descending" ? -1 : 1);
    for (const body of table.tBodies) {
      const rows = [...first.get(body)];
      body.append(...(next ? rows.sort(compare) : rows));
    }
  }

  for (const heading of all("th[data-sort]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "sort";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sort(heading));
    heading.append(button);
  }

  // ---- filters: an element is shown where one of its pairs and all of its methods are chosen

  const form = document.getElementById("filters");
  const chosen = (name) => new Set(all(`input[name=${name}]:checked`, form).map((box) => box.value));
  const ids = (list) => list.trim().split(" ");

  function filter() {
    const [pairs, methods] = [chosen("pairs"), chosen("methods")];
    for (const element of all("[data-pairs], [data-methods]")) {
      const of = element.dataset;
      const shown =
        (of.pairs === undefined || ids(of.pairs).some((id) => pairs.has(id))) &&
        (of.methods === undefined || ids(of.methods).every((id) => methods.has(id)));
      element.hidden = !shown;
    }
    document.getElementById("nothing").hidden = pairs.size > 0;
  }

  form.addEventListener("change", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const button of all("button[data-set]", form)) {
    button.addEventListener("click", () => {
      for (const box of all(`input[name=${button.dataset.set}]`, form)) box.checked = button.dataset.to === "all";
      filter();
    });
  }
  // ---- folded tables open where a link leads into them, and in print

  const folded = all("details.folded");

  function reveal() {
    const id = decodeURIComponent(location.hash.slice(1));
    const details = document.getElementById(id)?.closest("details.folded");
    if (details && !details.open) {
      details.open = true;
      document.getElementById(id).scrollIntoView();
    }
  }

  addEventListener("hashchange", reveal);
  reveal();
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = folded.filter((details) => !details.open);
    for (const details of closed) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of closed) details.open = false;
  });

  form.hidden = false;
  if (matchMedia("(max-width: 60rem)").matches) for (const part of all("nav details")) part.open = false;
})();
