// A button that copies text; it works offline and where the clipboard is not to be had directly.

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    return isCopied;
  }
}

function render({ model, el }) {
  const button = document.createElement("button");
  const name = () => model.get("name");
  button.type = "button";
  button.className = "jupyter-button nbft-copy";
  button.textContent = name();
  const told = document.createElement("span");
  told.setAttribute("role", "status");
  told.className = "nbft-copied";
  const click = async () => {
    const isCopied = await copy(model.get("text"));
    told.textContent = isCopied ? "Copied." : "Select the text and copy it with the keyboard.";
    button.focus();
  };
  const changed = () => (told.textContent = "");
  button.addEventListener("click", click);
  model.on("change:text", changed);
  el.append(button, told);
  return () => {
    button.removeEventListener("click", click);
    model.off("change:text", changed);
  };
}

export default { render };
