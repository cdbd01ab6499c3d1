// A chat with two models side by side. Python's side is nbft/widgets/chat.py: what is shown comes in
// traits, what a person does goes there as messages. All text is set as text, never as HTML.

const RATINGS = [
  ["left", "Left is better"],
  ["tie", "Tie"],
  ["right", "Right is better"],
];

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

// A button that is switched off keeps the focus, so that the keyboard is not lost.
const isOn = (node) => node.getAttribute("aria-disabled") !== "true";
const switchOff = (node, off) => node.setAttribute("aria-disabled", String(off));

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = element("textarea", "", document.body);
    area.value = text;
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    return isCopied;
  }
}

function render({ model, el }) {
  const get = (name) => model.get(name);
  const listeners = [];
  const watch = (names, action) => {
    for (const name of names) {
      model.on(`change:${name}`, action);
      listeners.push([`change:${name}`, action]);
    }
    action();
  };

  const root = element("section", "nbft-chat", el);
  root.setAttribute("aria-label", "Chat");
  root.dataset.lmSuppressShortcuts = "true"; // JupyterLab would take the keys

  // The picture for saved notebooks is not wanted while this is here.
  const hide = element("style", "", document.head);
  const still = `#nbft-${get("still")}`;
  hide.textContent = `${still}, .jp-OutputArea-child:has(${still}) { display: none !important }`;

  const head = element("div", "nbft-chat-bar", root);
  const about = element("div", "nbft-chat-about", root);
  const details = element("details", "nbft-chat-settings", root);
  const log = element("div", "nbft-chat-log", root);
  log.setAttribute("role", "log");
  log.setAttribute("aria-label", "Conversation");
  log.tabIndex = 0;
  const says = element("p", "nbft-chat-says", root);
  const write = element("div", "nbft-chat-write", root);
  const rated = element("p", "nbft-chat-rated", root);

  // Who answers

  const sides = ["Left", "Right"].map((words) => {
    const label = element("label", "", head, `${words} `);
    const select = element("select", "", label);
    select.addEventListener("change", () => {
      const [left, right] = sides.map((one) => one.value);
      model.send({ type: "choose", left, right });
    });
    return select;
  });
  watch(["sides", "chosen"], () => {
    sides.forEach((select, n) => {
      select.replaceChildren();
      for (const title of get("sides")) element("option", "", select, title).value = title;
      select.value = get("chosen")[n] ?? "";
    });
  });
  watch(["about"], () => {
    about.replaceChildren(...get("about").map((sentence) => element("p", "", null, sentence)));
  });

  // How messages are asked

  element("summary", "", details, "Settings");
  const grid = element("div", "nbft-chat-grid", details);
  const fields = {};
  function field(name, words, tag, hint = "") {
    const label = element("label", "", grid);
    element("span", "", label, words);
    fields[name] = element(tag, "", label);
    if (hint) element("small", "", label, hint);
    return fields[name];
  }
  field("template", "Template", "select");
  const system = field("system", "System prompt", "textarea", "Only with a chat template.");
  system.rows = 2;
  const number = (name, words, step, min, hint) => {
    const input = field(name, words, "input", hint);
    Object.assign(input, { type: "number", step, min });
  };
  number("temperature", "Temperature", "0.1", "0", "0 takes the most likely token.");
  number("top_p", "Top p", "0.05", "0.05", "Only with a temperature.");
  number("max_new_tokens", "Longest answer (tokens)", "1", "1", "");
  const stop = field("stop", "Stop texts", "textarea", "One a line; an answer ends there.");
  stop.rows = 2;
  const blindLabel = element("label", "nbft-chat-check", grid);
  const blind = element("input", "", blindLabel);
  blind.type = "checkbox";
  blindLabel.append("Hide which is which until it is rated");

  let changedAt = 0; // what the kernel sends may be from before that
  const settings = () => ({
    changed_at: (changedAt = Date.now()),
    template: fields.template.value || null,
    system: system.value,
    temperature: Number(fields.temperature.value),
    top_p: Number(fields.top_p.value),
    max_new_tokens: Number(fields.max_new_tokens.value),
    stop: stop.value.split("\n").filter(Boolean),
    is_blind: blind.checked,
  });
  watch(["templates", "settings"], () => {
    const now = get("settings");
    const isOutdated = now.changed_at < changedAt;
    const template = fields.template.value;
    fields.template.replaceChildren();
    for (const [value, words] of get("templates")) {
      element("option", "", fields.template, words).value = value;
    }
    if (isOutdated) {
      fields.template.value = template || now.template;
      return;
    }
    for (const name of Object.keys(fields)) {
      const value = name === "stop" ? now.stop.join("\n") : (now[name] ?? "");
      // What is being typed stays; a list was filled anew.
      if (name === "template" || fields[name] !== document.activeElement)
        fields[name].value = value;
    }
    blind.checked = now.is_blind;
  });

  details.addEventListener("change", () => model.send({ type: "set", settings: settings() }));

  // The message

  const box = element("textarea", "", write);
  box.rows = 2;
  box.placeholder = "Write a message";
  box.setAttribute("aria-label", "Message");
  box.title = "Enter sends, Shift+Enter begins a new line, Escape stops";
  const buttons = element("div", "nbft-chat-buttons", write);
  const send = button("nbft-chat-main", buttons, "Send", () => {
    if (!box.value.trim()) return;
    model.send({ type: "send", text: box.value, settings: settings() });
    box.value = "";
    box.focus();
  });
  const stopButton = button("", buttons, "Stop", () => model.send({ type: "stop" }));
  const again = button("", buttons, "Regenerate", () =>
    model.send({ type: "again", settings: settings() }),
  );
  const clear = button("", buttons, "New conversation", () => model.send({ type: "clear" }));
  watch(["refused"], () => {
    if (get("refused") && !box.value) box.value = get("refused");
  });
  watch(["state", "turns"], () => {
    const state = get("state");
    const isBusy = state === "answering";
    const hasTurns = get("turns").length > 0;
    root.setAttribute("aria-busy", String(isBusy));
    log.setAttribute("aria-busy", String(isBusy)); // read out when it is whole
    switchOff(send, isBusy);
    switchOff(stopButton, !isBusy);
    switchOff(again, isBusy || state === "loading" || !hasTurns);
    switchOff(clear, isBusy || !hasTurns);
    for (const select of sides) select.disabled = isBusy || state === "loading";
  });
  watch(["says", "is_wrong"], () => {
    says.textContent = get("says");
    says.setAttribute("role", get("is_wrong") ? "alert" : "status");
    says.classList.toggle("nbft-chat-wrong", get("is_wrong"));
  });
  watch(["rated"], () => (rated.textContent = get("rated")));

  // The conversation

  let texts = []; // of the answers, by message and place
  const isAtEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  const group = `nbft-chat-${Math.random().toString(36).slice(2)}`;

  function drawReply(reply, parent) {
    const card = element("div", "nbft-chat-reply", parent);
    card.setAttribute("role", "group");
    card.setAttribute("aria-label", reply.title);
    element("div", "nbft-chat-name", card, reply.title).setAttribute("aria-hidden", "true");
    const text = element("div", "nbft-chat-text", card, reply.text);
    text.dir = "auto";
    const isEmpty = reply.isOver && !reply.text;
    if (isEmpty) element("em", "", text, "(empty answer)");
    const foot = element("div", "nbft-chat-foot", card);
    element("span", "", foot, reply.note);
    if (reply.isOver) {
      const told = element("span", "");
      told.setAttribute("role", "status");
      const offer = (words, what) => {
        const node = button("nbft-chat-link", foot, words, async () => {
          told.textContent = (await copy(what)) ? "Copied." : "Could not be copied.";
          node.focus();
        });
        node.setAttribute("aria-label", `${words}: ${reply.title}`);
      };
      offer("Copy answer", reply.text);
      offer("Copy as prompt", reply.prompt);
      foot.append(told);
    }
    return text;
  }

  function drawRating(turn, n, parent) {
    const bar = element("div", "nbft-chat-rating", parent);
    bar.setAttribute("role", "radiogroup");
    bar.setAttribute("aria-label", "Which answer is better?");
    for (const [choice, words] of RATINGS) {
      const label = element("label", "", bar);
      const radio = element("input", "", label);
      radio.type = "radio";
      radio.name = `${group}-${n}`;
      radio.value = choice;
      radio.checked = turn.rating === choice;
      label.append(words);
      radio.addEventListener("change", () => {
        model.send({ type: "rate", turn: n, choice });
      });
    }
  }

  // A rating that was refused is taken off again.
  watch(["turns", "is_wrong"], () => {
    const follows = isAtEnd();
    const { name, value } = log.contains(document.activeElement) ? document.activeElement : {};
    log.replaceChildren();
    texts = get("turns").map((turn, n) => {
      const part = element("div", "nbft-chat-turn", log);
      const asked = element("div", "nbft-chat-message", part);
      element("span", "nbft-chat-hidden", asked, "You: ");
      const words = element("div", "nbft-chat-text", asked, turn.message);
      words.dir = "auto";
      const row = element("div", "nbft-chat-replies", part);
      const drawn = turn.replies.map((reply) => drawReply(reply, row));
      if (turn.isAnswered) drawRating(turn, n, part);
      return drawn;
    });
    if (name) log.querySelector(`input[name="${name}"][value="${value}"]`)?.focus();
    if (follows) log.scrollTop = log.scrollHeight;
  });
  watch(["live"], () => {
    const { turn, place, text } = get("live");
    const node = texts[turn]?.[place];
    if (!node || get("turns")[turn].replies[place].isOver) return;
    const follows = isAtEnd();
    node.textContent = text;
    if (follows) log.scrollTop = log.scrollHeight;
  });

  const press = (event) => {
    const isWriting = event.target === box;
    if (event.key === "Escape") {
      if (get("state") === "answering") model.send({ type: "stop" });
    } else if (isWriting && event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      if (isOn(send)) send.click();
    } else {
      if (isWriting) event.stopPropagation(); // what is typed is no shortcut of the notebook's
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  };
  root.addEventListener("keydown", press);

  return () => {
    for (const [name, action] of listeners) model.off(name, action);
    root.removeEventListener("keydown", press);
    hide.remove();
    root.remove();
  };
}

export default { render };
