import { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import { Message } from '@lumino/messaging';
import { Signal } from '@lumino/signaling';
import * as React from 'react';

import { Api, IComparison } from './api';
import { Chart } from './curves';
import { Settings } from './details';
import { History } from './history';
import { StatusWord } from './panel';
import { measured, progress } from './formatting';

// Okabe and Ito's palette, which colour-blind people tell apart.
const COLORS = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9'];

/** Some runs side by side: their loss in one chart, and the settings in which they differ. */
export class RunComparison extends ReactWidget {
  constructor(
    private readonly _api: Api,
    readonly ids: readonly string[],
    private readonly _trans: TranslationBundle
  ) {
    super();
    this.addClass('nbft-details');
    this.title.caption = _trans.__('Comparison of runs');
    this._histories = ids.map(id => new History(_api, id));
  }

  dispose(): void {
    Signal.clearData(this);
    super.dispose();
  }

  protected render(): React.ReactElement {
    return (
      <UseSignal signal={this._changed}>
        {() =>
          this._found ? (
            <Comparison {...this._found} trans={this._trans} />
          ) : (
            <p role="status">{this._error || this._trans.__('Loading…')}</p>
          )
        }
      </UseSignal>
    );
  }

  /** Read the runs when the tab is opened and whenever it is looked at again. */
  protected onAfterShow(msg: Message): void {
    super.onAfterShow(msg);
    void this._ask();
  }

  protected onAfterAttach(msg: Message): void {
    super.onAfterAttach(msg);
    if (this.isVisible) {
      void this._ask();
    }
  }

  private async _ask(): Promise<void> {
    try {
      const comparison = await this._api.compare([...this.ids]);
      await Promise.all(this._histories.map(history => history.refresh()));
      this._found = { comparison, rows: merged(this._histories.map(one => one.points(['loss']))) };
    } catch (error) {
      this._error = (error as Error).message;
    }
    this._changed.emit();
  }

  private readonly _histories: History[];
  private readonly _changed = new Signal<this, void>(this);
  private _found: Omit<IComparisonProps, 'trans'> | null = null;
  private _error = '';
}

interface IComparisonProps {
  comparison: IComparison;
  rows: number[][];
  trans: TranslationBundle;
}

function Comparison({ comparison, rows, trans }: IComparisonProps): React.ReactElement {
  const { runs, settings } = comparison;
  return (
    <>
      <div className="nbft-details-head">
        <h1>{runs.map(run => run.name).join(trans.__(' and '))}</h1>
      </div>
      <Chart
        title={trans.__('loss')}
        series={runs.map(({ id, name }, i) => ({
          name: id,
          label: name,
          color: COLORS[i],
          style: 'line',
          smooth: true
        }))}
        rows={rows}
        trans={trans}
      />
      <h2>{trans.__('Status')}</h2>
      <div className="nbft-scroll" tabIndex={0} role="group" aria-label={trans.__('Status')}>
        <table className="nbft-settings">
          <thead>
            <tr>
              <th scope="col">{trans.__('run')}</th>
              <th scope="col">{trans.__('status')}</th>
              <th scope="col">{trans.__('progress')}</th>
              <th scope="col">{trans.__('loss')}</th>
              <th scope="col">{trans.__('held-out loss')}</th>
            </tr>
          </thead>
          <tbody>
            {runs.map(run => (
              <tr key={run.id}>
                <th scope="row">{run.name}</th>
                <td>
                  <StatusWord run={run} trans={trans} />
                </td>
                <td>{progress(run, trans)}</td>
                <td>{measured(run.loss, trans)}</td>
                <td>{measured(run.eval_loss, trans)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <h2>{trans.__('Differing settings')}</h2>
      <Settings columns={runs.map(run => run.name)} rows={Object.entries(settings)} trans={trans} />
    </>
  );
}

/** Points of several curves on one axis: [x, a value of each]; NaN where a curve has none. */
function merged(curves: number[][][]): number[][] {
  const rows = new Map<number, number[]>();
  curves.forEach((points, i) => {
    for (const [x, value] of points) {
      const row = rows.get(x) ?? [x, ...curves.map(() => NaN)];
      row[i + 1] = value;
      rows.set(x, row);
    }
  });
  return [...rows.values()].sort((a, b) => a[0] - b[0]);
}
