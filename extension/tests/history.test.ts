import { describe, expect, it, test } from 'vitest';

import { Api, IChart, IState, JsonNumber } from '../src/api';
import { chartKey, drawing, extended, History } from '../src/history';

const series = (name: string) =>
  ({ name, label: name, color: '#1f83c9', style: 'line', smooth: false }) as const;

function chart(...rows: JsonNumber[][]): IChart {
  return { title: 'loss', series: [series('loss')], rows };
}

test('what JSON cannot hold becomes a number again, and a missing value NaN', () => {
  const { rows } = drawing(chart([1, 2.5], [2, 'NaN'], [3, 'Infinity'], [4, null]));
  expect(rows).toEqual([
    [1, 2.5],
    [2, NaN],
    [3, Infinity],
    [4, NaN]
  ]);
});

test('a chart with another curve is another chart', () => {
  const two = { title: 'loss', series: [series('loss'), series('eval_loss')] };
  expect(chartKey(two)).not.toBe(chartKey(chart()));
});

describe('new rows', () => {
  const before = drawing(chart([1, 3], [2, 2]));

  it('follow the others', () => {
    const { rows } = extended(before, chart([3, 1]));
    expect(rows).toEqual([
      [1, 3],
      [2, 2],
      [3, 1]
    ]);
    expect(rows[0]).toBe(before.rows[0]); // the drawing compares rows by identity
  });

  it('replace those from their first step on', () => {
    expect(extended(before, chart([2, 5])).rows).toEqual([
      [1, 3],
      [2, 5]
    ]);
  });

  it('leave the drawing alone when there are none', () => {
    expect(extended(before, chart())).toBe(before);
  });
});

test('a history fetches until there is no more, and begins anew when told so', async () => {
  const state = (values: Partial<IState>): IState => ({
    whole: false,
    next: '',
    more: false,
    said: 0,
    smoothing: 0.8,
    charts: [],
    notes: null,
    scores: null,
    answers: null,
    ...values
  });
  const answers = [
    state({ whole: true, next: 'a', more: true, charts: [chart([1, 3])], notes: ['Slow.'] }),
    state({ next: 'b', charts: [chart([2, 2])] }),
    state({ whole: true, next: 'c', charts: [chart([1, 9])], notes: [] })
  ];
  const asked: string[] = [];
  const api = {
    state: (_: string, after: string) => {
      asked.push(after);
      return Promise.resolve(answers.shift());
    }
  };
  const history = new History(api as unknown as Api, 'run~1');
  await history.refresh();
  expect(history.charts[0].rows).toEqual([
    [1, 3],
    [2, 2]
  ]);
  expect(history.notes).toEqual(['Slow.']);
  await history.refresh();
  expect(history.charts[0].rows).toEqual([[1, 9]]);
  expect(history.notes).toEqual([]);
  expect(asked).toEqual(['', 'a', 'b']);
});
