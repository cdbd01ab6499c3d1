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
    private readonly _ids: string[]
  ) {
    super();
    this.addClass('nbft-details');
    this.title.caption = 'Comparison of runs';
  }

  protected render(): React.ReactElement {
    return (
      <UseSignal signal={this._changed}>
        {() =>
          this._found ? (
            <Comparison {...this._found} />
          ) : (
            <p role="status">{this._error || 'Reading …'}</p>
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
      const comparison = await this._api.compare(this._ids);
      this._found = { comparison, loss: drawing(comparison.chart) };
    } catch (error) {
      this._error = (error as Error).message;
    }
    this._changed.emit();
  }

  private readonly _changed = new Signal<this, void>(this);
  private _found: IComparisonProps | null = null;
  private _error = '';
}

interface IComparisonProps {
  comparison: IComparison;
  loss: IDrawing;
}

function Comparison({ comparison, loss }: IComparisonProps): React.ReactElement {
  const { runs, settings, smoothing } = comparison;
  return (
    <>
      <div className="nbft-details-head">
        <h1>{runs.map(run => run.name).join(' and ')}</h1>
      </div>
      <Chart {...loss} smoothing={smoothing} />
      <h2>How they stand</h2>
      <div className="nbft-scroll" tabIndex={0} role="group" aria-label="How they stand">
        <table className="nbft-settings">
          <thead>
            <tr>
              <th scope="col">run</th>
              <th scope="col">status</th>
              <th scope="col">progress</th>
              <th scope="col">loss</th>
              <th scope="col">held-out loss</th>
            </tr>
          </thead>
          <tbody>
            {runs.map(run => (
              <tr key={run.id}>
                <th scope="row">{run.name}</th>
                <td>
                  <StatusWord run={run} />
                </td>
                <td>{progress(run)}</td>
                <td>{measured(run.loss)}</td>
                <td>{measured(run.eval_loss)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <h2>Settings in which they differ</h2>
      <Settings columns={runs.map(run => run.name)} rows={Object.entries(settings)} />
    </>
  );
}
