import { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import newChart from '../chart/chart.js';
import { IRun, ISeries } from './api';
import { measured } from './formatting';
import { IDrawing } from './history';

const WIDTH = 64;
const HEIGHT = 20;

interface ISmallCurveProps {
  run: IRun;
  trans: TranslationBundle;
}

/** The loss as a curve of the size of a word. */
export function SmallCurve({ run, trans }: ISmallCurveProps): React.ReactElement | null {
  const points = run.curve
    .map(([step, loss]) => [step, Number(loss)])
    .filter(([, y]) => isFinite(y));
  if (points.length < 2) {
    return null;
  }
  const [first, last] = [points[0], points[points.length - 1]];
  const losses = points.map(([, loss]) => loss);
  const [low, high] = [Math.min(...losses), Math.max(...losses)];
  const line = points.map(([step, loss]) => {
    const x = ((step - first[0]) / (last[0] - first[0] || 1)) * (WIDTH - 2) + 1;
    const y = ((high - loss) / (high - low || 1)) * (HEIGHT - 4) + 2;
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  });
  return (
    <svg
      className="nbft-small-curve"
      role="img"
      aria-label={trans.__(
        'loss from %1 to %2',
        measured(first[1], trans),
        measured(last[1], trans)
      )}
      data-points={points.length}
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      width={WIDTH}
      height={HEIGHT}
    >
      <polyline points={line.join(' ')} />
    </svg>
  );
}

interface IChartProps extends IDrawing {
  /** Weight of the past in the moving average of smooth curves. */
  smoothing: number;
  trans: TranslationBundle;
}

/** The live chart of the notebook, fed from here. Its series are those of the first drawing. */
export function Chart({ title, series, rows, smoothing, trans }: IChartProps): React.ReactElement {
  const node = React.useRef<HTMLDivElement>(null);
  const model = React.useRef<ChartModel | null>(null);
  React.useEffect(() => {
    const chart = newChart();
    model.current = new ChartModel(title, series, smoothing, trans);
    const close = chart.initialize({ model: model.current });
    const remove = chart.render({ model: model.current, el: node.current! });
    return () => {
      remove();
      close();
    };
    // eslint-disable-next-line react-hooks/exhaustive-deps -- what it began with, it keeps
  }, []);
  React.useEffect(() => model.current?.show(rows), [rows]);
  return <div ref={node} />;
}

type Listener = (...given: unknown[]) => void;

/** What the chart takes for a model of ipywidgets; see nbft/widgets/chart.py for the messages. */
class ChartModel {
  constructor(
    title: string,
    series: ISeries[],
    smoothing: number,
    private readonly _trans: TranslationBundle
  ) {
    this._values = {
      title,
      series,
      x_label: _trans.__('step'),
      y_label: '',
      height_px: 220,
      marks: [],
      log_y: false,
      smoothing
    };
  }

  get(name: string): unknown {
    return this._values[name];
  }

  set(name: string, value: unknown): void {
    this._values[name] = value;
    this._emit(`change:${name}`);
  }

  on(name: string, listener: Listener): void {
    this._listeners.set(name, (this._listeners.get(name) ?? new Set()).add(listener));
  }

  off(name: string, listener: Listener): void {
    this._listeners.get(name)?.delete(listener);
  }

  send(): void {
    this._emit('msg:custom', this._message(this._rows, 0), [this._buffer(this._rows, 0)]);
  }

  save_changes(): void {
    // There is no kernel to tell.
  }

  /** Show these rows, sending the chart only what differs from the last ones. */
  show(rows: number[][]): void {
    const differs = this._rows.findIndex((row, i) => row !== rows[i]);
    const start = differs === -1 ? this._rows.length : differs;
    this._rows = rows;
    this._emit('msg:custom', this._message(rows, start), [this._buffer(rows, start)]);
  }

  private _message(rows: number[][], start: number): object {
    const trans = this._trans;
    const last = rows[rows.length - 1];
    const series = this._values['series'] as ISeries[];
    const summary = series.flatMap(({ label }, i) => {
      const hasValue = (row: number[]) => isFinite(row[i + 1]);
      const [first, final] = [rows.find(hasValue), rows.findLast(hasValue)];
      return first && final
        ? [
            trans.__(
              '%1 %2 to %3',
              label,
              measured(first[i + 1], trans),
              measured(final[i + 1], trans)
            )
          ]
        : [];
    });
    return {
      type: 'append',
      start,
      rows: rows.length - start,
      summary: last ? trans.__('%1, up to step %2', summary.join(', '), last[0]) : ''
    };
  }

  /** float64 [1 + series, rows]. */
  private _buffer(rows: number[][], start: number): DataView {
    const columns = (this._values['series'] as ISeries[]).length + 1;
    const count = rows.length - start;
    const numbers = new Float64Array(columns * count);
    for (let row = 0; row < count; row++) {
      for (let column = 0; column < columns; column++) {
        numbers[column * count + row] = rows[start + row][column];
      }
    }
    return new DataView(numbers.buffer);
  }

  private _emit(name: string, ...given: unknown[]): void {
    this._listeners.get(name)?.forEach(listener => listener(...given));
  }

  private readonly _values: Record<string, unknown>;
  private readonly _listeners = new Map<string, Set<Listener>>();
  private _rows: number[][] = [];
}
