import { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import * as React from 'react';

import { lossSoFar, progress } from './formatting';
import { RunsModel } from './model';

/** The run that trains, in the status bar; a click opens it. */
export class RunStatus extends ReactWidget {
  constructor(
    private readonly _model: RunsModel,
    private readonly _open: (id: string) => void,
    private readonly _trans: TranslationBundle
  ) {
    super();
  }

  protected render(): React.ReactElement {
    const trans = this._trans;
    return (
      <UseSignal signal={this._model.changed}>
        {() => {
          const run = this._model.running;
          if (!run) {
            return <></>;
          }
          const facts = [progress(run, trans), run.stage || lossSoFar(run, trans)]
            .filter(Boolean)
            .join(', ');
          return (
            <button
              className="nbft-status-item"
              title={trans.__('Open %1', run.name)}
              onClick={() => this._open(run.id)}
            >
              {run.name}: {facts || trans.__('starting')}
            </button>
          );
        }}
      </UseSignal>
    );
  }
}
