// What the curves of one chart hold; shared by all its views. The protocol is described in
// nbft/widgets/chart.py.

const FIRST_WAIT_MS = 2000;

/** @typedef {{ name: string, label: string, style: string, smooth: boolean, color: string }} Series */
/** @typedef {{ x: number, text: string }} Mark */
/** @typedef {(number | null)[]} Column */

/** Exponential moving average that does not start at zero (as in moving_average of Python). */
class MovingAverage {
  /** @param {number} weight - Weight of the past. */
  constructor(weight) {
    this.weight = weight;
    this.average = 0;
    this.past = 1;
  }

  /** @param {number | null} value */
  next(value) {
    if (value === null) {
      return null;
    }
    this.average = this.weight * this.average + (1 - this.weight) * value;
    this.past *= this.weight;
    return this.average / (1 - this.past);
  }
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
    this.averages = this.newAverages();
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

  /** The last value of a series, or null. @param {number} i */
  last(i) {
    return this.values[i].findLast(value => value !== null) ?? null;
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
    this.summary = message.summary;
    this.changed();
  }

  changed() {
    this.listeners.forEach(listener => listener());
  }

  /** @param {number} rows */
  truncate(rows) {
    if (rows === this.rows) {
      return;
    }
    for (const column of [this.x, ...this.values, ...this.smooth]) {
      column.length = rows;
    }
    this.averages = this.newAverages();
    this.values.forEach((column, i) => column.forEach(value => this.averages[i].next(value)));
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
        this.smooth[i].push(this.averages[i].next(value));
      }
    }
  }

  newAverages() {
    return this.series.map(() => new MovingAverage(this.model.get('smoothing')));
  }

  close() {
    clearTimeout(this.waiting);
    this.model.off('msg:custom', this.receive);
  }
}
