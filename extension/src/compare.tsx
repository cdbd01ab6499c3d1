import { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import { Message } from '@lumino/messaging';
import { Signal } from '@lumino/signaling';
import * as React from 'react';

import { Api, IComparison } from './api';
import { Chart } from './curves';
import { Settings } from './details';
import { drawing, IDrawing } from './history';
import { StatusWord } from './panel';
import { measured, progress } from './formatting';

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
      this._found = { comparison, loss: drawing(comparison.chart) };
    } catch (error) {
      this._error = (error as Error).message;
    }
    this._changed.emit();
  }

  private readonly _changed = new Signal<this, void>(this);
  private _found: Omit<IComparisonProps, 'trans'> | null = null;
  private _error = '';
}

interface IComparisonProps {
  comparison: IComparison;
  loss: IDrawing;
  trans: TranslationBundle;
}

function Comparison({ comparison, loss, trans }: IComparisonProps): React.ReactElement {
  const { runs, settings, smoothing } = comparison;
  return (
    <>
      <div className="nbft-details-head">
        <h1>{runs.map(run => run.name).join(trans.__(' and '))}</h1>
      </div>
      <Chart {...loss} smoothing={smoothing} trans={trans} />
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
