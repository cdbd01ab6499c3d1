// Moves the focus to the control of a field or to a heading, once it is on the page. The request
// comes from the kernel, which may have been busy: who has begun to type elsewhere stays there.

const handled = new WeakMap(); // model → number of its last request

function isTyping() {
  const active = document.activeElement;
  return active?.isContentEditable || active?.matches("textarea, select, input:not([type=radio])");
}

function render({ model, el }) {
  let frame = 0;
  const move = () => {
    cancelAnimationFrame(frame);
    const request = model.get("request");
    if (!request || handled.get(model) === request) return;
    const deadline = Date.now() + 3000;
    const target = `.${CSS.escape(model.get("target"))}`;
    const root = el.closest(".nbft-form") ?? document;
    const look = () => {
      const field = root.querySelector(target);
      const control = field?.querySelector("input, select, textarea, h3[tabindex]");
      if (isTyping() || Date.now() > deadline) {
        handled.set(model, request);
      } else if (control?.getClientRects().length) {
        handled.set(model, request);
        control.focus({ preventScroll: true });
        field.scrollIntoView({ block: "nearest" });
      } else {
        frame = requestAnimationFrame(look);
      }
    };
    look();
  };
  model.on("change:request", move);
  move();
  return () => {
    cancelAnimationFrame(frame);
    model.off("change:request", move);
  };
}

export default { render };
