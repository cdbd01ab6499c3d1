import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { Curves } from '../../chart/curves.js';

/** A model of anywidget that records what is sent to the kernel. */
function makeModel(smoothing = 0.9) {
  const values = { series: [{ name: 'loss' }, { name: 'eval_loss' }], smoothing };
  return {
    sent: [],
    listeners: new Map(),
    get: name => values[name],
    send(message) {
      this.sent.push(message);
    },
    on(name, listener) {
      this.listeners.set(name, listener);
    },
    off(name) {
      this.listeners.delete(name);
    }
  };
}

/** What the kernel sends: rows of [x, loss, eval_loss] from a row on. */
function append(curves, start, rows) {
  const columns = [0, 1, 2].flatMap(column => rows.map(row => row[column]));
  const buffer = new DataView(new Float64Array(columns).buffer);
  curves.receive({ type: 'append', start, rows: rows.length, summary: 'loss 2' }, [buffer]);
}

let model;
let curves;

beforeEach(() => {
  vi.useFakeTimers();
  model = makeModel();
  curves = new Curves(model);
});

afterEach(() => {
  curves.close();
  vi.useRealTimers();
});

test('rows are appended; what is not finite is no value', () => {
  append(curves, 0, [
    [1, 2, NaN],
    [2, 1.5, 1.8]
  ]);
  append(curves, 2, [[3, Infinity, NaN]]);
  expect(curves.x).toEqual([1, 2, 3]);
  expect(curves.values).toEqual([
    [2, 1.5, null],
    [null, 1.8, null]
  ]);
  expect(curves.last(0)).toBe(1.5);
  expect(curves.last(1)).toBe(1.8);
  expect(curves.summary).toBe('loss 2');
});

test('the moving average begins at the first value and stays between the values', () => {
  append(curves, 0, [
    [1, 2, NaN],
    [2, 1, NaN]
  ]);
  const [first, second] = curves.smooth[0];
  expect(first).toBeCloseTo(2, 12);
  // (0.9 · 0.1 · 2 + 0.1 · 1) / (1 − 0.9²)
  expect(second).toBeCloseTo(0.28 / 0.19, 12);
});

test('rows that are sent again replace the old ones, averages included', () => {
  append(curves, 0, [
    [1, 2, NaN],
    [2, 9, NaN],
    [3, 9, NaN]
  ]);
  append(curves, 1, [[2, 1, NaN]]);
  expect(curves.x).toEqual([1, 2]);
  expect(curves.values[0]).toEqual([2, 1]);
  expect(curves.smooth[0][1]).toBeCloseTo(0.28 / 0.19, 12);
});

test('a gap is not filled but asked for', () => {
  append(curves, 0, [[1, 2, NaN]]);
  model.sent.length = 0;
  append(curves, 5, [[6, 1, NaN]]);
  expect(curves.rows).toBe(1);
  expect(model.sent).toEqual([{ type: 'resync', have: 1 }]);
});

test('a busy kernel is asked again, ever more slowly', () => {
  expect(model.sent.length).toBe(1);
  vi.advanceTimersByTime(2000);
  expect(curves.isUnanswered).toBe(true);
  expect(model.sent.length).toBe(2);
  vi.advanceTimersByTime(3999);
  expect(model.sent.length).toBe(2);
  vi.advanceTimersByTime(1);
  expect(model.sent.length).toBe(3);
  append(curves, 0, [[1, 2, NaN]]);
  expect(curves.isUnanswered).toBe(false);
  vi.advanceTimersByTime(60_000);
  expect(model.sent.length).toBe(3);
});

test('closing removes the listener and the timer', () => {
  curves.close();
  vi.advanceTimersByTime(60_000);
  expect(model.sent.length).toBe(1);
  expect(model.listeners.size).toBe(0);
});
