// The live chart where the front end was not built: one sentence, and the curve in words.
export default {
  render({ model, el }) {
    const why = document.createElement('p');
    why.textContent =
      'The live chart needs the front end, which was not built (Node.js was absent): ' +
      'install Node.js, then nbft again. chart.figure() draws the same curve as a picture.';
    const words = document.createElement('p');
    words.setAttribute('role', 'status');
    el.replaceChildren(why, words);

    const show = message => {
      if (message.type === 'append') words.textContent = message.summary;
    };
    model.on('msg:custom', show);
    model.send({ type: 'resync', have: 0 });
    return () => model.off('msg:custom', show);
  }
};
