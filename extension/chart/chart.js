// The live chart of nbft: uPlot in an anywidget. Python's side is nbft/widgets/chart.py.

import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import './style.css';

import { Curves, lastOf, legend } from './curves.js';
import { logTicks, position, reading, tick } from './numbers.js';

const NEAR_PX = 12; // how far from a mark the pointer still means it
const RAW_ALPHA = 0.85; // as in nbft/charts.py
const FONT = '12px system-ui, sans-serif';

// Distances between two ticks of x: there is no step 2.5.
const STEPS = Array.from({ length: 18 }, (_, i) => i - 6).flatMap(power =>
  [1, 2, 5].map(digit => Number(`${digit}e${power}`))
);
const WHOLE_STEPS = STEPS.filter(Number.isInteger);

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {string} className
 * @param {HTMLElement} [parent]
 */
function element(tag, className, parent) {
  const node = document.createElement(tag);
  node.className = className;
  parent?.append(node);
  return node;
}

/**
 * Draw the curves into an element, and again whenever they, the theme or the width change.
 *
 * @param {Curves} curves
 * @param {import('@anywidget/types').AnyModel} model
 * @param {HTMLElement} el
 * @returns {() => void} Removes the drawing and every listener.
 */
function drawChart(curves, model, el) {
  const root = element('div', 'nbft-chart', el);
  // JupyterLab would take the arrow keys for its own shortcuts.
  root.dataset.lmSuppressShortcuts = 'true';
  const bar = element('div', 'nbft-chart-bar', root);
  const title = element('span', 'nbft-chart-title', bar);
  const where = element('span', 'nbft-chart-where', bar);
  const shown = legend(curves.series, model.get('x_label'));
  const entries = shown.map(({ series, style, label }) => {
    const entry = element('span', 'nbft-chart-entry', bar);
    const swatch = element('span', 'nbft-chart-swatch', entry);
    swatch.style.setProperty('--nbft-color', curves.series[series].color);
    swatch.dataset.style = style;
    entry.append(label);
    return element('span', 'nbft-chart-value', entry);
  });
  const note = element('span', 'nbft-chart-note', bar);
  const buttons = element('span', 'nbft-chart-buttons', bar);
  const logButton = element('button', '', buttons);
  logButton.type = 'button';
  logButton.textContent = 'Log axis';
  const resetButton = element('button', '', buttons);
  resetButton.type = 'button';
  resetButton.textContent = 'Reset zoom';
  const plot = element('div', 'nbft-chart-plot', root);
  plot.tabIndex = 0;
  plot.setAttribute('role', 'img');
  const waiting = element('div', 'nbft-chart-waiting', plot);
  const spoken = element('div', 'nbft-chart-spoken', root);
  spoken.setAttribute('role', 'status');

  /** @type {[number, number] | null} */
  let zoom = null;
  let frame = 0;
  let chart = newPlot();

  function newPlot() {
    const text = () => getComputedStyle(root).color;
    const grid = {
      stroke: () => getComputedStyle(root).getPropertyValue('--nbft-grid'),
      width: 1
    };
    /** @type {uPlot.Axis} */
    const axis = {
      stroke: text,
      grid,
      ticks: { ...grid, size: 4 },
      font: FONT,
      labelFont: FONT,
      labelSize: 20
    };
    const isLog = model.get('log_y');

    /** @type {uPlot.Options} */
    const options = {
      width: plot.clientWidth || 600,
      height: model.get('height_px'),
      padding: [10, 24, 0, 0], // half of a label such as 100,000 stands right of the last tick
      legend: { show: false },
      scales: {
        x: { time: false, range: (_, min, max) => zoom ?? [min, max] },
        y: isLog
          ? {
              distr: 3,
              range: (_, min, max) => (min > 0 && max > 0 ? [min / 1.1, max * 1.1] : [0.1, 10])
            }
          : {}
      },
      axes: [
        {
          ...axis,
          size: 28,
          space: 60,
          incrs: () => (curves.x.every(Number.isInteger) ? WHOLE_STEPS : STEPS),
          label: model.get('x_label'),
          values: (_, ticks) => ticks.map(tick)
        },
        {
          ...axis,
          size: 56,
          label: model.get('y_label') || undefined,
          values: (_, ticks) => ticks.map(tick),
          ...(isLog && {
            splits: (_u, _axis, min, max) => logTicks(min, max),
            filter: (_u, ticks) => ticks
          })
        }
      ],
      series: [{}, ...curves.series.flatMap(series => lines(series))],
      cursor: {
        y: false,
        drag: { x: true, y: false, setScale: false },
        hover: {
          skip: [null],
          prox: (u, i, row) => (u.data[i][row] === null ? NEAR_PX : null)
        },
        bind: {
          dblclick: () => () => {
            setZoom(null);
            return null;
          }
        }
      },
      hooks: {
        draw: [drawMarks],
        setCursor: [showReadings],
        setSelect: [
          u => {
            const { left, width } = u.select;
            if (width > 0) {
              u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
              setZoom([u.posToVal(left, 'x'), u.posToVal(left + width, 'x')]);
            }
          }
        ]
      }
    };
    return new uPlot(options, data(), plot);
  }

  /**
   * @param {import('./curves.js').Series} series
   * @returns {uPlot.Series[]}
   */
  function lines({ style, smooth, color }) {
    /** @type {uPlot.Series} */
    const line = { stroke: color, width: 1.5, spanGaps: true };
    if (style === 'marks') {
      return [{ ...line, paths: () => null, points: { show: true, size: 8, fill: color } }];
    }
    const points = { show: () => curves.rows === 1, size: 6, fill: color };
    return smooth
      ? [
          { ...line, width: 1.25, alpha: RAW_ALPHA, points: { show: false } },
          { ...line, width: 2.5, points }
        ]
      : [{ ...line, points }];
  }

  /** The columns in the order of `lines`. @returns {uPlot.AlignedData} */
  function data() {
    const columns = curves.series.flatMap(({ style, smooth }, i) =>
      smooth && style === 'line' ? [curves.values[i], curves.smooth[i]] : [curves.values[i]]
    );
    return [curves.x, ...columns];
  }

  /** @returns {import('./curves.js').Mark[]} */
  function marks() {
    return model.get('marks');
  }

  /** A dotted line at each mark and as much of its words as fits before the next. @param {uPlot} u */
  function drawMarks(u) {
    const { ctx, bbox } = u;
    const scale = uPlot.pxRatio;
    const right = bbox.left + bbox.width;
    const seen = marks()
      .map(mark => ({ text: mark.text, at: u.valToPos(mark.x, 'x', true) }))
      .filter(({ at }) => at >= bbox.left && at <= right)
      .sort((a, b) => a.at - b.at);
    ctx.save();
    ctx.fillStyle = ctx.strokeStyle = getComputedStyle(root).color;
    ctx.font = FONT.replace('12px', `${12 * scale}px`);
    ctx.textAlign = 'left';
    ctx.textBaseline = 'top';
    ctx.lineWidth = scale;
    ctx.setLineDash([2 * scale, 3 * scale]);
    seen.forEach(({ text, at }, i) => {
      ctx.beginPath();
      ctx.moveTo(at, bbox.top);
      ctx.lineTo(at, bbox.top + bbox.height);
      ctx.stroke();
      const room = (seen[i + 1]?.at ?? right) - at - 8 * scale;
      ctx.fillText(shortened(ctx, text, room), at + 4 * scale, bbox.top + 2 * scale);
    });
    ctx.restore();
  }

  /** Show the values at the pointer, or the last ones when it is elsewhere. */
  function showReadings() {
    const { idx, idxs, left = -1 } = chart.cursor;
    const isAt = left >= 0 && idx != null && idx < curves.rows;
    where.textContent = isAt
      ? `${model.get('x_label')} ${position(curves.x[idx])}`
      : `${curves.rows.toLocaleString('en')} point${curves.rows === 1 ? '' : 's'}`;
    entries.forEach((entry, i) => {
      const { series, line, isSmoothed } = shown[i];
      const column = isSmoothed ? curves.smooth[series] : curves.values[series];
      const row = idxs?.[line];
      const value = isAt ? (row == null ? null : column[row]) : lastOf(column);
      entry.textContent = value == null ? '–' : reading(value);
    });
    note.textContent = isAt
      ? marks()
          .filter(mark => Math.abs(chart.valToPos(mark.x, 'x') - left) < NEAR_PX)
          .map(mark => mark.text)
          .join(' · ')
      : '';
  }

  function update() {
    frame = 0;
    const isEmpty = curves.rows === 0;
    const label = [model.get('title'), curves.summary].filter(Boolean).join('. ');
    plot.setAttribute('aria-label', label || 'No points yet');
    waiting.hidden = !isEmpty;
    waiting.textContent = curves.isUnanswered
      ? 'Waiting for the kernel; a busy one answers after its cell.'
      : 'No points yet.';
    title.textContent = model.get('title');
    title.hidden = !model.get('title');
    logButton.setAttribute('aria-pressed', String(model.get('log_y')));
    resetButton.disabled = zoom === null;
    chart.setData(data());
    showReadings();
  }

  /** Draw with the next frame, however often the data change until then. */
  function schedule() {
    frame ||= requestAnimationFrame(update);
  }

  /** Axes cannot change in place. */
  function rebuild() {
    chart.destroy();
    chart = newPlot();
    schedule();
  }

  /** @param {[number, number] | null} range */
  function setZoom(range) {
    zoom = range;
    schedule();
  }

  /** Zoom around the pointer, or the middle. @param {number} factor */
  function zoomBy(factor) {
    const [first, last] = [curves.x[0], curves.x[curves.rows - 1]];
    const { min = first, max = last } = chart.scales.x;
    const { idx } = chart.cursor;
    const middle = idx == null ? (min + max) / 2 : curves.x[idx];
    const low = Math.max(first, middle - (middle - min) * factor);
    const high = Math.min(last, middle + (max - middle) * factor);
    setZoom(low === first && high === last ? null : [low, high]);
  }

  /** Put the pointer on a row and say what stands there. @param {number} row */
  function pointAt(row) {
    const [from, to] = chart.series[0].idxs ?? [0, 0];
    const at = Math.min(Math.max(row, from), to);
    chart.setCursor({ left: chart.valToPos(curves.x[at], 'x'), top: 0 });
    const values = entries.map((entry, i) => `${shown[i].label} ${entry.textContent}`);
    spoken.textContent = [where.textContent, ...values, note.textContent]
      .filter(Boolean)
      .join(', ');
  }

  /** @param {KeyboardEvent} event */
  function onKeyDown(event) {
    if (curves.rows === 0) {
      return;
    }
    const [from, to] = chart.series[0].idxs ?? [0, 0];
    const row = chart.cursor.idx ?? to;
    // Where many points share a pixel, an arrow moves by a pixel.
    const step = Math.max(1, Math.round((to - from) / chart.over.clientWidth));
    /** @type {Record<string, () => void>} */
    const actions = {
      ArrowLeft: () => pointAt(row - step),
      ArrowRight: () => pointAt(row + step),
      Home: () => pointAt(from),
      End: () => pointAt(to),
      '+': () => zoomBy(0.5),
      '-': () => zoomBy(2),
      Escape: () => setZoom(null)
    };
    const action = actions[event.key];
    if (action) {
      event.preventDefault();
      event.stopPropagation();
      action();
    }
  }

  const onBlur = () => chart.setCursor({ left: -10, top: -10 });
  const onLog = () => {
    model.set('log_y', !model.get('log_y'));
    model.save_changes();
  };
  const onReset = () => setZoom(null);
  plot.addEventListener('keydown', onKeyDown);
  plot.addEventListener('blur', onBlur);
  logButton.addEventListener('click', onLog);
  resetButton.addEventListener('click', onReset);

  const resize = new ResizeObserver(() => {
    const width = plot.clientWidth;
    if (width > 0 && width !== chart.width) {
      chart.setSize({ width, height: model.get('height_px') });
    }
  });
  resize.observe(plot);

  // The colours of the axes are read when they are drawn, so a new theme needs a new drawing.
  const theme = new MutationObserver(schedule);
  theme.observe(document.body, { attributes: true });
  const darkMode = matchMedia('(prefers-color-scheme: dark)');
  darkMode.addEventListener('change', schedule);

  const rebuilding = ['change:log_y', 'change:x_label', 'change:y_label', 'change:height_px'];
  const updating = ['change:marks', 'change:title'];
  rebuilding.forEach(name => model.on(name, rebuild));
  updating.forEach(name => model.on(name, schedule));
  curves.listeners.add(schedule);
  update();

  return () => {
    cancelAnimationFrame(frame);
    curves.listeners.delete(schedule);
    rebuilding.forEach(name => model.off(name, rebuild));
    updating.forEach(name => model.off(name, schedule));
    darkMode.removeEventListener('change', schedule);
    theme.disconnect();
    resize.disconnect();
    chart.destroy();
    root.remove();
  };
}

/**
 * @param {CanvasRenderingContext2D} ctx
 * @param {string} text
 * @param {number} room - In pixels of the canvas.
 */
function shortened(ctx, text, room) {
  if (ctx.measureText(text).width <= room) {
    return text;
  }
  let kept = text;
  while (kept && ctx.measureText(`${kept}…`).width > room) {
    kept = kept.slice(0, -1);
  }
  return kept && `${kept.trimEnd()}…`;
}

// A factory, called once for each model: initialize and render are given different proxies of
// the model, so that what views share cannot be found by it.
export default () => {
  /** @type {Curves} */
  let curves;
  return {
    /** @type {import('@anywidget/types').Initialize} */
    initialize({ model }) {
      curves = new Curves(model);
      return () => curves.close();
    },
    /** @type {import('@anywidget/types').Render} */
    render({ model, el }) {
      return drawChart(curves, model, el);
    }
  };
};
