// What the curves of one chart hold; shared by all its views. The protocol is described in
// nbft/widgets/chart.py.

const FIRST_WAIT_MS = 2000;

/** @typedef {{ name: string, label: string, style: string, smooth: boolean, color: string }} Series */
/** @typedef {{ x: number, text: string }} Mark */
/** @typedef {(number | null)[]} Column */

/**
 * Exponential moving average that is centred on each point, as moving_average of nbft/charts.py.
 *
 * @param {Column} values
 * @param {number} weight - Weight of the next point on either side.
 * @returns {Column}
 */
function movingAverage(values, weight) {
  const smooth = values.slice();
  const weights = new Float64Array(values.length);
  let total = 0;
  let count = 0;
  values.forEach((value, i) => {
    if (value !== null) {
      total = weight * total + value;
      count = weight * count + 1;
      smooth[i] = total;
      weights[i] = count;
    }
  });
  total = count = 0;
  for (let i = values.length - 1; i >= 0; i--) {
    const value = values[i];
    const back = smooth[i];
    if (value !== null && back !== null) {
      smooth[i] = (back + weight * total) / (weights[i] + weight * count);
      total = weight * total + value;
      count = weight * count + 1;
    }
  }
  return smooth;
}

/**
 * What the legend names, in the order of the lines: of a smooth curve both its lines, unless there
 * are several, whose legends would be twice as long.
 *
 * @param {Series[]} series
 * @param {string} xLabel
 */
export function legend(series, xLabel) {
  const isSmooth = (/** @type {Series} */ { style, smooth }) => smooth && style === 'line';
  const isAlone = series.filter(isSmooth).length === 1;
  let line = 1; // 0 is x
  return series.flatMap((one, i) => {
    const entry = { series: i, style: one.style, label: one.label, isSmoothed: false };
    if (!isSmooth(one)) {
      return [{ ...entry, line: line++ }];
    }
    const raw = { ...entry, style: 'raw', label: `${one.label} of each ${xLabel}`, line: line++ };
    const average = { ...entry, label: `${one.label}, smoothed`, isSmoothed: true, line: line++ };
    return isAlone ? [average, raw] : [average];
  });
}

/** The last value of a column, or null. @param {Column} column */
export function lastOf(column) {
  return column.findLast(value => value !== null) ?? null;
}

export class Curves {
  /** @param {import('@anywidget/types').AnyModel} model */
  constructor(model) {
    this.model = model;
    /** @type {Series[]} */
    this.series = model.get('series');
    /** @type {number[]} */
    this.x = [];
    /** @type {Column[]} */
    this.values = this.series.map(() => []);
    /** @type {Column[]} */
    this.smooth = this.series.map(() => []);
    this.summary = '';
    /** @type {Set<() => void>} */
    this.listeners = new Set();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.waiting = undefined;
    this.isUnanswered = false;

    this.receive = this.receive.bind(this);
    model.on('msg:custom', this.receive);
    this.ask(FIRST_WAIT_MS);
  }

  get rows() {
    return this.x.length;
  }

  /**
   * Ask the kernel for the rows that are missing, and again if it is too busy to answer.
   *
   * @param {number} waitMs - Until it is asked again; doubles, for a cell may run for hours and
   *   every question in the queue is answered at its end.
   */
  ask(waitMs) {
    this.model.send({ type: 'resync', have: this.rows });
    this.waiting = setTimeout(() => {
      this.isUnanswered = true;
      this.changed();
      this.ask(2 * waitMs);
    }, waitMs);
  }

  /**
   * @param {{ type: string, start: number, rows: number, summary: string }} message
   * @param {DataView[]} buffers
   */
  receive(message, buffers) {
    if (message.type !== 'append') {
      return;
    }
    if (message.start > this.rows) {
      if (this.waiting === undefined) {
        this.ask(FIRST_WAIT_MS);
      }
      return;
    }
    clearTimeout(this.waiting);
    this.waiting = undefined;
    this.isUnanswered = false;
    this.truncate(message.start);
    this.append(message.rows, buffers[0]);
    const weight = this.model.get('smoothing');
    this.smooth = this.values.map((column, i) =>
      this.series[i].smooth ? movingAverage(column, weight) : column
    );
    this.summary = message.summary;
    this.changed();
  }

  changed() {
    this.listeners.forEach(listener => listener());
  }

  /** @param {number} rows */
  truncate(rows) {
    for (const column of [this.x, ...this.values]) {
      column.length = rows;
    }
  }

  /**
   * @param {number} rows
   * @param {DataView} buffer - float64 [1 + series, rows].
   */
  append(rows, buffer) {
    const { byteOffset, byteLength } = buffer;
    const numbers = new Float64Array(buffer.buffer.slice(byteOffset, byteOffset + byteLength));
    for (let row = 0; row < rows; row++) {
      this.x.push(numbers[row]);
      for (let i = 0; i < this.values.length; i++) {
        const number = numbers[(i + 1) * rows + row];
        const value = Number.isFinite(number) ? number : null; // null is uPlot's "no value"
        this.values[i].push(value);
      }
    }
  }

  close() {
    clearTimeout(this.waiting);
    this.model.off('msg:custom', this.receive);
  }
}
