import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import * as React from 'react';

import { RunsModel } from './model';
import { measured, progress } from './formatting';

/** The run that trains, in the status bar; a click opens it. */
export class RunStatus extends ReactWidget {
  constructor(
    private readonly _model: RunsModel,
    private readonly _open: (id: string) => void
  ) {
    super();
  }

  protected render(): React.ReactElement {
    return (
      <UseSignal signal={this._model.changed}>
        {() => {
          const run = this._model.running;
          if (!run) {
            return <></>;
          }
          const facts = [progress(run), run.loss === null ? '' : `loss ${measured(run.loss)}`];
          return (
            <button
              className="nbft-status-item"
              title={`Open ${run.name}`}
              onClick={() => this._open(run.id)}
            >
              {run.name}: {facts.filter(Boolean).join(', ') || 'beginning'}
            </button>
          );
        }}
      </UseSignal>
    );
  }
}
