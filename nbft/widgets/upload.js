// Brings a file to the kernel in pieces. The kernel asks for each, so nothing piles up, and the
// file is read from the disk as it is sent. The sending belongs to the model: it goes on while
// another page of the form is shown.

// Pieces grow while they arrive quickly. Jupyter's servers refuse messages above 10 MiB.
const LEAST_BYTES = 2 ** 18;
const MOST_BYTES = 2 ** 22;
const QUICK_MS = 500;
const PATIENCE_MS = 2000;

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

function crc32(bytes) {
  let crc = -1;
  for (let i = 0; i < bytes.length; i++) crc = (crc >>> 8) ^ TABLE[(crc ^ bytes[i]) & 255];
  return ~crc >>> 0;
}

// What JupyterLab's list of files drags, and where its paths begin.
const DRAGGED = "application/x-jupyter-icontents";

function serverRoot() {
  const config = document.getElementById("jupyter-config-data");
  return config ? (JSON.parse(config.textContent).serverRoot ?? "") : "";
}

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

export default () => {
  let sending = null; // the file on its way, and the id under which both sides know it
  let timer = 0;
  let isWaiting = false; // the kernel has not answered for a while
  const views = new Set();

  const wait = (isAsked) => {
    clearTimeout(timer);
    isWaiting = false;
    if (isAsked) {
      timer = setTimeout(() => {
        isWaiting = true;
        views.forEach((draw) => draw());
      }, PATIENCE_MS);
    }
    views.forEach((draw) => draw());
  };

  const begin = (model, files) => {
    const file = files[0];
    // No crypto.randomUUID: it is only there over https and on localhost.
    const upload = Math.random().toString(36).slice(2);
    sending = { file, upload, pieceBytes: LEAST_BYTES, sentAt: performance.now() };
    model.send({
      type: "begin",
      upload,
      files: files.length,
      name: file.name,
      size: file.size,
    });
    wait(true);
  };

  const cancel = (model) => {
    model.send({ type: "cancel" });
    sending = null;
    wait(true);
  };

  return {
    initialize({ model }) {
      const answer = async (message) => {
        const now = sending;
        const isMine = now && message.upload === now.upload;
        if (isMine && message.type === "stop") sending = null;
        wait(false);
        if (!isMine || !sending) return;
        const isQuick = performance.now() - now.sentAt < QUICK_MS;
        now.pieceBytes = isQuick
          ? Math.min(2 * now.pieceBytes, MOST_BYTES)
          : Math.max(now.pieceBytes / 2, LEAST_BYTES);
        let piece;
        try {
          const end = message.start + now.pieceBytes;
          piece = await now.file.slice(message.start, end).arrayBuffer();
        } catch {
          model.send({ type: "unreadable", upload: now.upload });
          return;
        }
        if (sending !== now) return; // cancelled meanwhile
        now.sentAt = performance.now();
        const about = { start: message.start, crc32: crc32(new Uint8Array(piece)) };
        model.send({ type: "piece", upload: now.upload, ...about }, undefined, [piece]);
        wait(true);
      };
      const leave = () => sending && cancel(model);
      model.on("msg:custom", answer);
      window.addEventListener("pagehide", leave);
      return () => {
        clearTimeout(timer);
        model.off("msg:custom", answer);
        window.removeEventListener("pagehide", leave);
      };
    },

    render({ model, el }) {
      const root = element("div", "nbft-upload");
      const help = element("span", "nbft-help");
      const choose = element("button", "jupyter-button nbft-link", "Choose a file");
      const whose = element("span", "nbft-hidden", ` of ${model.get("what")} rows`);
      const hint = element("span", "nbft-hint", " or drop it here.");
      const input = element("input");
      const bar = element("progress");
      const words = element("span", "nbft-progress");
      const stop = element("button", "jupyter-button nbft-push", "Cancel");
      const way = element("div", "nbft-way");
      const said = element("p", "nbft-said");
      choose.type = stop.type = "button";
      choose.append(whose);
      input.type = "file";
      input.hidden = true;
      input.accept = model.get("endings").join(",");
      bar.setAttribute("aria-label", "Upload");
      way.append(bar, words, stop);
      root.append(help, " ", choose, hint, input, way, said);
      el.append(root);

      const drawHelp = () => (help.innerHTML = model.get("value"));
      const drawSaid = () => {
        said.textContent = model.get("said");
        said.classList.toggle("nbft-wrong", model.get("is_wrong"));
        said.setAttribute("role", model.get("is_wrong") ? "alert" : "status");
      };
      const draw = () => {
        const isBusy = model.get("is_busy") || sending !== null;
        const focused = root.contains(document.activeElement) && document.activeElement;
        choose.disabled = model.get("disabled");
        choose.hidden = hint.hidden = isBusy;
        way.hidden = !isBusy;
        bar.value = model.get("share");
        words.textContent = isWaiting
          ? "Waiting for the kernel, which may be running a cell…"
          : model.get("progress");
        if (focused && !focused.getClientRects().length) (isBusy ? stop : choose).focus();
      };

      const isMine = (target) => {
        const isShown = root.getClientRects().length > 0;
        const field = target.closest?.(".nbft-field")?.querySelector(".nbft-upload");
        const page = target.closest?.(".nbft-page")?.querySelector(".nbft-upload");
        return isShown && (field ?? page) === root;
      };
      const mark = (isOver) =>
        el.closest(".nbft-field")?.classList.toggle("nbft-dropping", isOver);
      const over = (event) => {
        const isFile = event.dataTransfer?.types.includes("Files") && isMine(event.target);
        const isFree = !choose.disabled && !choose.hidden;
        mark(isFile && isFree);
        if (!isFile) return;
        event.preventDefault();
        event.stopPropagation();
        event.dataTransfer.dropEffect = isFree ? "copy" : "none";
      };
      const leave = (event) => event.relatedTarget === null && mark(false);
      const drop = (event) => {
        mark(false);
        const files = event.dataTransfer?.files ?? [];
        if (!files.length || !isMine(event.target)) return;
        event.preventDefault();
        event.stopPropagation();
        if (!choose.disabled && !choose.hidden) begin(model, files);
      };
      // JupyterLab drags with events of its own; a file of its list is used where it lies.
      const overFromList = (event) => {
        const isFile = event.mimeData?.hasData(DRAGGED) && isMine(event.target);
        const isFree = !choose.disabled && !choose.hidden;
        mark(isFile && isFree);
        if (!isFile || !isFree) return;
        event.preventDefault();
        event.stopPropagation();
        event.dropAction = event.proposedAction;
      };
      const leaveToList = () => mark(false);
      const dropFromList = (event) => {
        overFromList(event);
        mark(false);
        if (!event.defaultPrevented) return;
        const paths = event.mimeData.getData(DRAGGED).map((path) => `${serverRoot()}/${path}`);
        model.send({ type: "named", paths });
      };
      const picked = () => {
        if (input.files.length) begin(model, input.files);
        input.value = ""; // the same file can be chosen again
      };
      const open = () => input.click();
      const end = () => cancel(model);

      choose.addEventListener("click", open);
      stop.addEventListener("click", end);
      input.addEventListener("change", picked);
      const drags = [
        ["dragenter", over],
        ["dragover", over],
        ["dragleave", leave],
        ["drop", drop],
        ["lm-dragenter", overFromList],
        ["lm-dragover", overFromList],
        ["lm-dragleave", leaveToList],
        ["lm-drop", dropFromList],
      ];
      for (const [event, act] of drags) document.addEventListener(event, act, true);
      const changes = [
        ["change:value", drawHelp],
        ["change:said", drawSaid],
        ["change:is_wrong", drawSaid],
        ...["disabled", "is_busy", "share", "progress"].map((name) => [`change:${name}`, draw]),
      ];
      for (const [event, redraw] of changes) {
        model.on(event, redraw);
        redraw();
      }
      views.add(draw);
      return () => {
        choose.removeEventListener("click", open);
        stop.removeEventListener("click", end);
        input.removeEventListener("change", picked);
        for (const [event, act] of drags) document.removeEventListener(event, act, true);
        for (const [event, redraw] of changes) model.off(event, redraw);
        views.delete(draw);
      };
    },
  };
};
