// Tables that are sorted by their heads and filtered by a word.
function sortable(table) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.sort === undefined ? row.cells[column].textContent : Number(row.cells[column].dataset.sort);
      body.append(...d3.sort(body.rows, (a, b) => (down ? d3.descending : d3.ascending)(key(a), key(b))));
    });
  });
}

function filters(input) {
  const rows = [...document.getElementById(input.dataset.filters).tBodies[0].rows];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  input.addEventListener("input", () => {
    const asked = input.value.toLowerCase();
    rows.forEach((row, i) => { row.hidden = !texts[i].includes(asked); });
  });
  input.closest(".filter").hidden = false;
}
