// A list to choose from. The kernel sends its items; the page sends the number of the chosen one.

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function render({ model, el }) {
  const root = element("section", "nbft-chooser");
  const form = element("form", "nbft-way");
  const box = element("input", "nbft-search-box");
  const ask = element("button", "jupyter-button nbft-push", "Search");
  const own = element("button", "jupyter-button nbft-link", "Open JupyterLab’s file dialog");
  const said = element("p", "nbft-said");
  const list = element("div", "nbft-items");
  root.setAttribute("aria-label", model.get("label"));
  box.type = "search";
  box.placeholder = model.get("search");
  box.setAttribute("aria-label", model.get("search"));
  ask.type = "submit";
  said.setAttribute("role", "status");
  form.append(box, ask);
  form.hidden = !model.get("search");
  own.type = "button";
  // nbft's extension of JupyterLab marks the page, and answers the event below.
  own.hidden = !model.get("endings").length || !("nbftFiles" in document.body.dataset);
  root.append(form, own, said, list);
  el.append(root);

  const drawSaid = () => {
    said.textContent = model.get("said");
    said.hidden = !model.get("said");
  };
  const drawItems = () => {
    list.replaceChildren();
    let group = null;
    let items = null;
    model.get("items").forEach((item, number) => {
      if (item.group !== group) {
        group = item.group;
        items = element("ul", "");
        list.append(element("h3", "", group), items);
      }
      const row = element("li", "");
      const choose = element("button", "jupyter-button nbft-link nbft-item", item.title);
      choose.type = "button";
      choose.disabled = model.get("disabled");
      choose.addEventListener("click", () => model.send({ type: "choose", item: number }));
      row.append(choose, element("span", "nbft-about", item.about));
      if (item.has_rows) {
        const look = element("button", "jupyter-button nbft-link nbft-look", "show rows");
        const whose = element("span", "nbft-hidden", ` of ${item.title}`);
        look.type = "button";
        look.append(whose);
        look.addEventListener("click", () => model.send({ type: "rows", item: number }));
        row.append(" ", look, element("div", "nbft-rows"));
      }
      items.append(row);
    });
    drawRows();
  };
  const drawRows = () => {
    const rows = model.get("rows");
    list.querySelectorAll("li").forEach((row, number) => {
      const place = row.querySelector(".nbft-rows");
      if (place) place.innerHTML = rows[number] ?? ""; // made by nbft's own templates, escaped
    });
  };
  const drawLock = () =>
    [own, ...list.querySelectorAll(".nbft-item")].forEach((one) => {
      one.disabled = model.get("disabled");
    });
  own.addEventListener("click", () => {
    const choose = (path) => model.send({ type: "path", path });
    const detail = { endings: model.get("endings"), choose };
    document.dispatchEvent(new CustomEvent("nbft:choose-file", { detail }));
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    model.send({ type: "search", text: box.value });
  });
  // Shift+Enter and the arrow keys belong to the box, not to the notebook's cell.
  box.addEventListener("keydown", (event) => event.stopPropagation());
  const changes = [
    ["change:said", drawSaid],
    ["change:items", drawItems],
    ["change:rows", drawRows],
    ["change:disabled", drawLock],
  ];
  for (const [event, redraw] of changes) {
    model.on(event, redraw);
    redraw();
  }
  return () => changes.forEach(([event, redraw]) => model.off(event, redraw));
}

export default { render };
