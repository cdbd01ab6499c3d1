// The mask lens: a row in colour, as columns, as text, as tokens or in its packed sequence.
// Python's side is nbft/widgets/lens.py. All text is set as text, never as HTML.

const DRAWN_TOKENS = 2000; // of a long row, until all are asked for
const TONES = { good: " ✓", bad: " ✗" };
const BUSY = "The kernel is busy; the row comes when it is free.";
const BUSY_MS = 1500;
const FIRST = "the first token of a row is never predicted";

function element(tag, className = "", parent = null, text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  parent?.append(node);
  return node;
}

function button(className, parent, text, action) {
  const node = element("button", className, parent, text);
  node.type = "button";
  node.addEventListener("click", () => isOn(node) && action());
  return node;
}

// A button that is switched off keeps the focus, so that the keyboard is not lost at the last row.
const isOn = (node) => node.getAttribute("aria-disabled") !== "true";
const switchOff = (node, off) => node.setAttribute("aria-disabled", String(off));
const counted = (number) => number.toLocaleString("en");
const caption = (part) => `${part.name} (${part.isTrained ? "trained" : "not trained"})`;

// What cannot be seen: control characters, spaces without width or of another kind, directions.
const UNSEEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u00a0\u00ad\u200b\u200c\u200e\u200f\u2028-\u202f\u2060-\u2069\ufeff]/g;
const codePoint = (one) => `⟨U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
const visible = (text) =>
  text
    .replace(UNSEEN, codePoint)
    .replaceAll(" ", "·")
    .replaceAll("\t", "→\t")
    .replaceAll("\n", "↵\n");

const quoted = (text) => `“${visible(text).replaceAll("↵\n", "↵").replaceAll("→\t", "→")}”`;

// Ids, and what the training does with the token, as a sentence.
function meaning([, ids, kind, isTrained], at, kinds) {
  const id = `${ids.length > 1 ? "ids" : "id"} ${ids.join(", ")}`;
  if (kind === "cut") return [`${id} · no label`, kinds.cut];
  const label = `label ${isTrained ? ids.join(", ") : -100}`;
  if (isTrained && at === 0) return [`${id} · ${label}`, FIRST];
  const words = isTrained && kind === "special" ? `${kinds.special}, trained` : kinds[kind];
  return [`${id} · ${label}`, words];
}

// Neighbours that look the same as one: [kind, is trained, text, tokens]. A long row is a few.
function grouped(parts = []) {
  const runs = [];
  for (const [text, ids, kind, isTrained] of parts.flatMap(({ tokens = [] }) => tokens)) {
    let last = runs.at(-1);
    if (last?.[0] !== kind || last[1] !== isTrained) runs.push((last = [kind, isTrained, "", 0]));
    last[2] += text;
    last[3] += ids.length;
  }
  return runs;
}

function render({ model, el }) {
  const get = (name) => model.get(name);
  const put = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  const kinds = Object.fromEntries(get("kinds"));
  const listeners = [];
  const watch = (names, action) => {
    for (const name of names) {
      model.on(`change:${name}`, action);
      listeners.push([`change:${name}`, action]);
    }
    action();
  };

  const root = element("section", "nbft-lens", el);
  root.setAttribute("aria-label", "Mask lens");
  root.dataset.lmSuppressShortcuts = "true"; // JupyterLab would take the arrow keys

  // The picture for saved notebooks is not wanted while this is here.
  const hide = element("style", "", document.head);
  const still = `#nbft-${get("still")}`;
  hide.textContent = `${still}, .jp-OutputArea-child:has(${still}) { display: none !important }`;

  const head = element("div", "nbft-lens-head", root);
  const title = element("div", "nbft-lens-title", head);
  title.setAttribute("role", "status");
  const going = element("div", "nbft-lens-going", head);
  const bar = element("div", "nbft-lens-bar", root);
  const strip = element("div", "nbft-lens-shares", root);
  strip.setAttribute("aria-hidden", "true"); // the title says it in words
  const said = element("div", "nbft-lens-said", root);
  said.setAttribute("role", "status");
  const body = element("div", "nbft-lens-body", root);
  const waiting = element("div", "nbft-lens-said", root);
  waiting.setAttribute("role", "status");
  const legend = element("ul", "nbft-lens-legend", root);
  legend.setAttribute("aria-label", "What the marks mean");
  const about = element("div", "nbft-lens-about", root);
  const tip = element("div", "nbft-lens-tip", root);
  tip.setAttribute("aria-hidden", "true"); // each token says the same as its name
  tip.hidden = true;

  // Going from row to row

  const previous = button("", going, "‹ Previous", () => move(-1));
  previous.title = "Previous row (p)";
  const label = element("label", "", going, "Row ");
  const number = element("input", "", label);
  number.type = "number";
  number.min = "1";
  const next = button("", going, "Next ›", () => move(1));
  next.title = "Next row (n)";
  const place = element("span", "nbft-lens-place", going);

  const isFirst = () => get("position") <= 1;
  let busy = 0;
  function ask(name, value) {
    put(name, value);
    clearTimeout(busy);
    busy = setTimeout(() => (place.textContent = BUSY), BUSY_MS);
  }

  const isLast = () => get("position") >= get("ranked");
  function move(step) {
    if (step < 0 ? isFirst() : isLast()) return;
    ask("position", get("position") + step);
  }
  function jump() {
    const wanted = Math.min(Math.max(Math.round(Number(number.value)), 1), get("total"));
    if (number.value && wanted !== get("number")) ask("number", wanted);
    else number.value = get("number");
  }
  number.addEventListener("change", jump);
  watch(["number", "position", "ranked", "total", "order"], () => {
    number.value = get("number");
    number.max = get("total");
    switchOff(previous, isFirst());
    switchOff(next, isLast());
    const isRanked = get("order") !== "file" && get("position") > 0;
    place.textContent = isRanked
      ? `place ${counted(get("position"))} of ${counted(get("ranked"))}`
      : "";
  });

  // What to show, and how

  function choice(name, words, options) {
    const about = element("label", "", bar, `${words} `);
    const select = element("select", "", about);
    for (const [value, text] of get(options)) element("option", "", select, text).value = value;
    select.addEventListener("change", () => put(name, select.value));
    watch([name], () => (select.value = get(name)));
    about.hidden = get(options).length < 2;
  }
  const views = element("div", "nbft-lens-views", bar);
  views.setAttribute("role", "radiogroup");
  views.setAttribute("aria-label", "Show the row as");
  const group = `nbft-lens-${Math.random().toString(36).slice(2)}`;
  const radios = get("views").map(([value, words]) => {
    const about = element("label", "", views);
    const radio = element("input", "", about);
    radio.type = "radio";
    radio.name = group;
    radio.value = value;
    about.append(words);
    radio.addEventListener("change", () => put("view", value));
    return radio;
  });
  watch(["view"], () => radios.forEach((radio) => (radio.checked = radio.value === get("view"))));
  choice("split", "Rows", "splits");
  choice("order", "Order", "orders");
  function toggle(name, words, shownIn) {
    const about = element("label", "", bar);
    const box = element("input", "", about);
    box.type = "checkbox";
    about.append(words);
    box.addEventListener("change", () => put(name, box.checked));
    watch([name, "view"], () => {
      box.checked = get(name);
      about.hidden = !shownIn.includes(get("view"));
    });
  }
  toggle("shows_spaces", "Show spaces", ["text", "tokens", "packed"]);
  toggle("shows_boundaries", "Token boundaries", ["tokens"]);

  // What is said: of the row, of the order, of the tokenizer, of all rows

  watch(["row"], () => {
    const { title: words = "", facts = [] } = get("row");
    title.replaceChildren();
    element("b", "", title, words);
    for (const [fact, tone] of facts) {
      title.append(" · ");
      element("span", `nbft-lens-fact nbft-lens-${tone}`, title, fact + (TONES[tone] ?? ""));
    }
    strip.replaceChildren();
    for (const [kind, isTrained, , count] of grouped(get("row").parts)) {
      const look = isTrained && kind !== "cut" ? "trained" : kind;
      element("span", `nbft-lens-${look}`, strip).style.flexGrow = count;
    }
  });
  watch(["says"], () => (said.textContent = get("says")));
  watch(["model"], () => {
    waiting.replaceChildren();
    const { state, text } = get("model");
    if (text) element("p", state === "failed" ? "nbft-lens-wrong" : "", waiting, text);
    if (state === "absent" || state === "failed") {
      const words = state === "absent" ? "Get the model" : "Try again";
      button("", waiting, words, () => put("wanted_models", get("wanted_models") + 1));
    }
  });
  watch(["about"], () => {
    about.replaceChildren(...get("about").map((sentence) => element("p", "", null, sentence)));
  });
  const explain = (className, name, words) => {
    const item = element("li", "", legend);
    element("span", `nbft-lens-token nbft-lens-${className}`, item, name);
    item.append(`: ${words}`);
  };
  for (const [name, words] of get("kinds")) {
    explain(name, name, words.split(": ").pop());
    if (name === "special") explain("special nbft-lens-also-trained", name, "trained too");
  }

  // The row

  let drawn = []; // [token, its element], in the token view

  function draw() {
    const hadFocus = body.contains(document.activeElement);
    const view = get("view");
    hideTip();
    drawn = [];
    body.replaceChildren();
    body.classList.toggle("nbft-lens-bounded", get("shows_boundaries"));
    for (const problem of get("row").problems ?? []) {
      element("p", "nbft-lens-wrong", body, problem).setAttribute("role", "alert");
    }
    if (!get("row").title) return; // the rows are being read
    ({ row: drawColumns, text: drawText, tokens: drawTokens, packed: drawSequence })[view]();
    legend.hidden = view === "row";
    strip.hidden = view === "packed" || !get("row").hasTokens;
    if (hadFocus) (drawn[0]?.[1] ?? body.querySelector("[tabindex='0']"))?.focus();
  }

  function region(words, parent = body) {
    const area = element("div", "nbft-lens-area", parent);
    area.setAttribute("role", "region");
    area.setAttribute("aria-label", words);
    return area;
  }

  function box(part, parent, words = caption(part)) {
    const frame = element("div", "nbft-lens-part", parent);
    frame.classList.toggle("nbft-lens-is-trained", part.isTrained);
    const name = element("div", "nbft-lens-caption", frame, words);
    const text = element("div", "nbft-lens-text", frame);
    text.dir = "auto";
    return { frame, name, text };
  }

  // Where a part belongs: the sequences of a row beside each other, below what they share.
  function placed(parent) {
    const sides = new Map();
    let row = null;
    return ({ side }) => {
      if (!side) return parent;
      row ??= element("div", "nbft-lens-sides", parent);
      if (!sides.has(side)) sides.set(side, element("div", "nbft-lens-side", row));
      return sides.get(side);
    };
  }

  // A line may still break where a space was.
  const shown = (text) =>
    get("shows_spaces") ? visible(text).replaceAll("·", "·\u200b") : text;

  function span(text, kind, isTrained, parent) {
    const trained = kind === "special" && isTrained ? " nbft-lens-also-trained" : "";
    return element("span", `nbft-lens-token nbft-lens-${kind}${trained}`, parent, shown(text));
  }

  function drawColumns() {
    const { columns = [], origin = "" } = get("row");
    const area = region("The row as it is in the data");
    area.tabIndex = 0;
    element("p", "nbft-lens-origin", area, origin);
    const table = element("table", "", area);
    for (const [name, value] of columns) {
      const line = element("tr", "", table);
      element("th", "", line, name).scope = "row";
      element("td", "", line, value).dir = "auto";
    }
  }

  function drawText() {
    const { parts = [], note } = get("row");
    const area = region(`${get("row").title} as text`);
    area.tabIndex = 0;
    const where = placed(area);
    for (const part of parts) {
      if (!part.text && !part.tokens?.length) continue;
      const { text } = box(part, where(part));
      if (part.tokens) drawRuns(grouped([part]), text);
      else span(part.text, part.isTrained ? "trained" : "prompt", part.isTrained, text);
    }
    offerAll(get("row").hidden, "characters");
    if (note) element("p", "nbft-lens-note", body, note);
  }

  function drawRuns(runs, parent) {
    for (const [kind, isTrained, text] of runs) span(text, kind, isTrained, parent);
  }

  let drawsAll = false; // of this row

  function drawTokens() {
    const { parts = [], hasTokens, hidden = 0, note } = get("row");
    if (!hasTokens) {
      drawText();
      return;
    }
    const area = region(`${get("row").title} as tokens`);
    const list = element("div", "", area);
    list.setAttribute("role", "listbox");
    list.setAttribute("aria-label", "Tokens");
    const total = parts.reduce((sum, part) => sum + part.tokens.length, 0);
    let room = drawsAll ? total : DRAWN_TOKENS;
    const where = placed(list);
    const begins = {}; // the next position of each side, after what it shares with the others
    for (const part of parts) {
      let at = begins[part.side] ?? begins[""] ?? 0;
      const tokens = part.tokens.slice(0, room);
      room -= tokens.length;
      if (!tokens.length) continue;
      const { frame, name, text } = box(part, where(part));
      frame.setAttribute("role", "group");
      frame.setAttribute("aria-label", caption(part));
      name.setAttribute("aria-hidden", "true");
      for (const token of tokens) {
        const [words, ids, kind, isTrained] = token;
        const node = span(words, kind, isTrained, text);
        node.setAttribute("role", "option");
        node.dataset.at = drawn.length;
        if (!words.trim()) {
          node.dataset.mark = visible(words).replaceAll("\n", "");
          node.setAttribute("aria-label", quoted(words));
        }
        drawn.push([token, node, at]);
        at += ids.length;
      }
      begins[part.side] = at;
    }
    if (drawn.length) reach(0);
    if (drawn.length < total) {
      button("nbft-lens-all", body, `Show all ${counted(total + hidden)} tokens`, () => {
        drawsAll = true;
        if (hidden) put("is_whole", true);
        draw();
      });
    } else offerAll(hidden, "tokens");
    if (note) element("p", "nbft-lens-note", body, note);
  }

  function offerAll(hidden, noun) {
    if (!hidden) return;
    const words = `Show ${counted(hidden)} more ${get("row").hasTokens ? "tokens" : noun}`;
    button("nbft-lens-all", body, words, () => put("is_whole", true));
  }

  function drawSequence() {
    const { says = "", pieces = [], used = 0, size = 1 } = get("sequence");
    const share = Math.round((100 * used) / size);
    const filled = `${counted(used)} of ${counted(size)} tokens (${share}%)`;
    element("p", "nbft-lens-note", body, pieces.length ? `${says} ${filled}.` : says);
    if (!pieces.length) return;
    const lengths = pieces.map(
      ({ number, begin, end }) => `row ${counted(number)}: ${counted(end - begin)} tokens`,
    );
    const strip = element("div", "nbft-lens-strip", body);
    strip.setAttribute("role", "img");
    strip.setAttribute("aria-label", `Sequence of ${filled}. ${lengths.join(", ")}`);
    for (const { number, begin, end, isHere } of pieces) {
      const part = element("span", isHere ? "nbft-lens-here" : "", strip, counted(number));
      part.style.flexGrow = end - begin;
    }
    if (used < size) element("span", "nbft-lens-empty", strip).style.flexGrow = size - used;
    const area = region("The rows of the sequence");
    area.tabIndex = 0;
    let here = null;
    for (const { number, begin, end, of, last, isHere, runs } of pieces) {
      const some = begin || end < of ? ` (${counted(begin)} to ${counted(end)} of ${of})` : "";
      const { frame, name, text } = box({ isTrained: isHere }, area, "");
      const words = `row ${counted(number)}`;
      if (isHere) element("b", "", name, words);
      else button("nbft-lens-link", name, words, () => put("number", number));
      name.append(` · ${counted(end - begin)} tokens${some} · positions 0 to ${last}`);
      drawRuns(runs, text);
      if (isHere) here = frame;
    }
    if (here) area.scrollTop = here.offsetTop - area.offsetTop;
  }

  // One token: by pointer and by arrow keys

  function showTip(index) {
    const [token, node, at] = drawn[index];
    tip.replaceChildren();
    element("div", "nbft-lens-tip-text", tip, quoted(token[0]));
    for (const line of meaning(token, at, kinds)) element("div", "", tip, line);
    tip.hidden = false;
    const here = node.getClientRects()[0] ?? node.getBoundingClientRect();
    const whole = root.getBoundingClientRect();
    const left = Math.min(here.left - whole.left, whole.width - tip.offsetWidth - 8);
    const below = here.bottom - whole.top + 6;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${below}px`;
  }

  function hideTip() {
    tip.hidden = true;
  }

  const indexOf = (target) => {
    const node = target.closest?.("[data-at]");
    return node && body.contains(node) ? Number(node.dataset.at) : -1;
  };

  let reached = null; // the token that the tab key leads to; it alone has a long name

  function reach(index) {
    const [token, node, at] = drawn[index];
    if (reached) reached.tabIndex = -1;
    reached = node;
    node.tabIndex = 0;
    node.setAttribute("aria-label", [quoted(token[0]), ...meaning(token, at, kinds)].join(", "));
  }

  function focus(index) {
    const at = Math.min(Math.max(index, 0), drawn.length - 1);
    reach(at);
    drawn[at][1].focus();
  }

  // The token above or below: on the next line that there is, the nearest to the same column.
  function onLine(index, step) {
    const rect = (n) => drawn[n][1].getClientRects()[0] ?? drawn[n][1].getBoundingClientRect();
    const start = rect(index);
    let best = index;
    let line = null;
    for (let n = index + step; n >= 0 && n < drawn.length; n += step) {
      const here = rect(n);
      if (Math.abs(here.top - start.top) < 4) continue;
      line ??= here.top;
      if (Math.abs(here.top - line) >= 4) break;
      const distance = (one) => Math.abs(rect(one).left - start.left);
      if (best === index || distance(n) < distance(best)) best = n;
    }
    return best;
  }

  const keys = {
    ArrowRight: (at) => at + 1,
    ArrowLeft: (at) => at - 1,
    ArrowDown: (at) => onLine(at, 1),
    ArrowUp: (at) => onLine(at, -1),
    Home: () => 0,
    End: () => drawn.length - 1,
  };
  const press = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const isTyping = /INPUT|SELECT|TEXTAREA/.test(event.target.tagName);
    const at = indexOf(event.target);
    if (event.key === "Escape") hideTip();
    else if (event.key === "Enter" && event.target === number) jump();
    else if (at >= 0 && keys[event.key]) focus(keys[event.key](at));
    else if (!isTyping && event.key === "n") move(1);
    else if (!isTyping && event.key === "p") move(-1);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  root.addEventListener("keydown", press);
  const point = (event) => {
    const index = indexOf(event.target);
    if (index >= 0) showTip(index);
    else if (indexOf(document.activeElement) < 0) hideTip();
  };
  body.addEventListener("pointerover", point);
  body.addEventListener("focusin", point);
  body.addEventListener("click", (event) => {
    const index = indexOf(event.target);
    if (index >= 0) focus(index);
  });
  const leave = () => hideTip();
  body.addEventListener("pointerleave", leave);
  body.addEventListener("focusout", leave);
  body.addEventListener("scroll", leave, { capture: true });

  watch(["row"], () => (drawsAll = get("is_whole")));
  watch(["row", "number", "position"], () => {
    clearTimeout(busy);
    if (place.textContent === BUSY) place.textContent = "";
  });
  watch(["row", "view", "shows_spaces", "shows_boundaries"], draw);
  const again = () => get("view") === "packed" && draw();
  watch(["sequence"], again);

  return () => {
    for (const [name, action] of listeners) model.off(name, action);
    clearTimeout(busy);
    hide.remove();
    root.remove();
  };
}

export default { render };
