import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { Curves, lastOf, legend } from '../../chart/curves.js';

/** A model of anywidget that records what is sent to the kernel. */
function makeModel(smoothing = 0.9) {
  const values = {
    series: [
      { name: 'loss', smooth: true },
      { name: 'eval_loss', smooth: false }
    ],
    smoothing
  };
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
  expect(lastOf(curves.values[0])).toBe(1.5);
  expect(lastOf(curves.values[1])).toBe(1.8);
  expect(curves.summary).toBe('loss 2');
});

test('the moving average looks ahead as far as back', () => {
  append(curves, 0, [
    [1, 2, NaN],
    [2, 1, NaN]
  ]);
  const [first, second] = curves.smooth[0];
  expect(first).toBeCloseTo((2 + 0.9 * 1) / 1.9, 12);
  expect(second).toBeCloseTo((1 + 0.9 * 2) / 1.9, 12);
  append(curves, 2, [
    [3, NaN, NaN],
    [4, 1, NaN]
  ]);
  const [start, middle, gap, end] = curves.smooth[0];
  expect(start).toBeCloseTo((2 + 0.9 + 0.81) / 2.71, 12);
  expect(middle).toBeCloseTo((1.8 + 1 + 0.9) / 2.8, 12);
  expect(gap).toBe(null);
  expect(end).toBeCloseTo((1.62 + 0.9 + 1) / 2.71, 12);
  expect(curves.smooth[1]).toEqual([null, null, null, null]);
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
  expect(curves.smooth[0][1]).toBeCloseTo((1 + 0.9 * 2) / 1.9, 12);
});

test('the legend names each line, and the number that belongs to it', () => {
  const loss = { name: 'loss', label: 'loss', style: 'line', smooth: true };
  const heldOut = { name: 'eval_loss', label: 'held-out loss', style: 'marks', smooth: false };
  const entries = legend([loss, heldOut], 'step');
  expect(entries.map(({ label, line, isSmoothed }) => [label, line, isSmoothed])).toEqual([
    ['loss, smoothed', 2, true],
    ['loss of each step', 1, false],
    ['held-out loss', 3, false]
  ]);
});

test('curves that are compared are named once', () => {
  const curve = { style: 'line', smooth: true };
  const entries = legend(
    [
      { ...curve, label: 'a' },
      { ...curve, label: 'b' }
    ],
    'step'
  );
  expect(entries.map(({ label, line }) => [label, line])).toEqual([
    ['a, smoothed', 2],
    ['b, smoothed', 4]
  ]);
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
