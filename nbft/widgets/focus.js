// Moves the focus to the control of a field or to a heading, once it is on the page.

function render({ model, el }) {
  let frame = 0;
  const move = () => {
    cancelAnimationFrame(frame);
    const deadline = Date.now() + 3000;
    const target = model.get("target");
    const root = el.closest(".nbft-form") ?? document;
    const look = () => {
      const field = target && root.querySelector(`.${CSS.escape(target)}`);
      const control = field?.querySelector("input, select, textarea, h3[tabindex]");
      if (control && control.getClientRects().length) {
        control.focus({ preventScroll: true });
        field.scrollIntoView({ block: "center" });
      } else if (Date.now() < deadline) {
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
