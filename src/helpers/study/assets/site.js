/* What pages need a script for: boards that sort and filter, all code at one click.
   A library would weigh more than the page: DataTables needs jQuery, 200 KB together,
   itables as much again for notebooks. A page without its script is whole but fixed. */
"use strict";
const make = (tag, about, ...inside) => {
  const made = Object.assign(document.createElement(tag), about);
  made.append(...inside);
  return made;
};

for (const table of document.querySelectorAll("table.board")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const rows = [...body.rows], choices = [];
  heads.forEach((head, column) => {
    const isNumber = head.classList.contains("number");
    const said = row => row.cells[column].textContent;
    const compare = isNumber
      ? (a, b) => isNaN(a) - isNaN(b) || (isNaN(a) ? 0 : turn * (a - b))
      : (a, b) => turn * a.localeCompare(b);
    const key = isNumber ? row => parseFloat(said(row).replaceAll(",", "")) : said;
    let turn = isNumber ? 1 : -1; // the first click: greatest first, or A first
    const button = make("button", {type: "button"}, ...head.childNodes);
    button.onclick = () => {
      turn = -turn;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", turn > 0 ? "ascending" : "descending");
      body.append(...rows.sort((a, b) => compare(key(a), key(b))));
    };
    if (head.hasAttribute("data-choose")) {
      const values = [...new Set(rows.map(said))].map(value => new Option(value, value));
      const select = make("select", {}, new Option("all", ""), ...values);
      const label = make("label", {}, `${button.textContent} `, select);
      choices.push({label, select, said});
    }
    head.append(button);
  });
  const search = make("input", {type: "search"}), count = make("output", {});
  const filter = () => {
    const wanted = search.value.toLowerCase();
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted)
        || choices.some(({select, said}) => select.selectedIndex && select.value !== said(row));
    }
    count.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} rows`;
  };
  const labels = [make("label", {}, "find ", search), ...choices.map(({label}) => label)];
  const filters = make("div", {className: "filters", oninput: filter}, ...labels, count);
  table.closest(".box").before(filters);
  filter();
}

const folds = document.querySelectorAll("details.code");
if (folds.length) {
  const button = make("button", {type: "button"}, "show all code");
  button.onclick = () => {
    const open = button.textContent.startsWith("show");
    folds.forEach(fold => { fold.open = open; });
    button.textContent = open ? "fold all code" : "show all code";
  };
  document.querySelector(".over").append(button);
}
