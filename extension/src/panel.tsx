import { TranslationBundle } from '@jupyterlab/translation';
import {
  addIcon,
  CommandToolbarButton,
  FilterBox,
  PanelWithToolbar,
  ReactWidget,
  UseSignal
} from '@jupyterlab/ui-components';
import { CommandRegistry } from '@lumino/commands';
import { Message } from '@lumino/messaging';
import * as React from 'react';

import { IRun } from './api';
import { CommandIDs } from './commands';
import { SmallCurve } from './curves';
import { heading, isActive, lossSoFar, progress, statusWords, timeLeft } from './formatting';
import { RunsModel } from './model';

/** The side panel: every run, active ones first. */
export class RunsPanel extends PanelWithToolbar {
  constructor(
    private readonly _model: RunsModel,
    commands: CommandRegistry,
    trans: TranslationBundle
  ) {
    super();
    this.id = 'nbft-runs';
    this.addClass('nbft-panel');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', trans.__('Fine-tuning runs'));

    this.toolbar.node.setAttribute('aria-label', trans.__('Fine-tuning runs'));
    this.toolbar.addItem(
      'new',
      new CommandToolbarButton({
        commands,
        id: CommandIDs.newNotebook,
        icon: addIcon,
        label: trans.__('New')
      })
    );
    this.toolbar.addItem(
      'compare',
      new CommandToolbarButton({
        commands,
        id: CommandIDs.compareRuns,
        args: { isToolbar: true }
      })
    );
    this.addWidget(this.toolbar);

    const create = () => void commands.execute(CommandIDs.newNotebook);
    // One function for all drawings: FilterBox calls another one again.
    const find = (_: unknown, query?: string) => {
      if (query !== undefined && query !== _model.search) {
        _model.search = query;
      }
    };
    const open = (id: string) => void commands.execute(CommandIDs.openRun, { id });
    const list = ReactWidget.create(
      <UseSignal signal={_model.changed}>
        {() => <RunList model={_model} create={create} find={find} open={open} trans={trans} />}
      </UseSignal>
    );
    list.addClass('nbft-panel-body');
    this.addWidget(list);

    _model.changed.connect(this._showToolbar, this);
    this._showToolbar();
  }

  protected onAfterShow(msg: Message): void {
    super.onAfterShow(msg);
    this._model.isShown = true;
  }

  protected onAfterHide(msg: Message): void {
    super.onAfterHide(msg);
    this._model.isShown = false;
  }

  /** The toolbar is of no use before the first run. */
  private _showToolbar(): void {
    this.toolbar.setHidden(this._model.isEmpty);
  }
}

interface IRunListProps {
  model: RunsModel;
  create: () => void;
  find: (_: unknown, query?: string) => void;
  open: (id: string) => void;
  trans: TranslationBundle;
}

function RunList({ model, create, find, open, trans }: IRunListProps): React.ReactElement {
  const { runs, matching, notice, search, isEmpty, isReady } = model;
  return (
    <>
      {!isEmpty && <Search query={search} find={find} trans={trans} />}
      <div role="status" aria-label={trans.__('Notice')} className="nbft-notice">
        {notice}
      </div>
      {isEmpty && (
        <div className="nbft-empty">
          <p>{trans.__('No model has been fine-tuned here yet.')}</p>
          <button className="nbft-button nbft-mod-main" onClick={create}>
            {trans.__('Fine-tune a model')}
          </button>
        </div>
      )}
      {isReady && !isEmpty && !runs.length && (
        <p className="nbft-empty">{trans.__('No matching runs.')}</p>
      )}
      <div className="nbft-runs">
        {grouped(runs, trans).map(([title, group]) => (
          <section key={title} aria-label={title}>
            <h2>{title}</h2>
            <ul>
              {group.map(run => (
                <Row key={run.id} run={run} model={model} open={open} trans={trans} />
              ))}
            </ul>
          </section>
        ))}
        {matching > runs.length && (
          <p className="nbft-empty">
            {trans.__(
              'Showing %1 of %2 runs. Search to find the others.',
              runs.length.toLocaleString('en'),
              matching.toLocaleString('en')
            )}
          </p>
        )}
      </div>
    </>
  );
}

interface ISearchProps {
  query: string;
  find: (_: unknown, query?: string) => void;
  trans: TranslationBundle;
}

function Search({ query, find, trans }: ISearchProps): React.ReactElement {
  const name = trans.__('Find a run');
  const input = React.useRef<HTMLInputElement>(null);
  // FilterBox takes no names for its input and for the button inside it, and without them
  // screen readers announce neither.
  React.useEffect(() => {
    const clear = input.current?.shadowRoot?.querySelector('[part="clear-button"]');
    input.current?.setAttribute('aria-label', name);
    clear?.setAttribute('aria-label', trans.__('Clear'));
  }, [name, trans]);
  return (
    <div className="nbft-filter">
      <FilterBox inputRef={input} initialQuery={query} placeholder={name} updateFilter={find} />
    </div>
  );
}

/** The runs below their headings, in the order that they have. */
function grouped(runs: readonly IRun[], trans: TranslationBundle): [string, IRun[]][] {
  const now = new Date();
  const groups = new Map<string, IRun[]>();
  for (const run of runs) {
    const title = heading(run, now, trans);
    groups.set(title, [...(groups.get(title) ?? []), run]);
  }
  return [...groups];
}

interface IRowProps {
  run: IRun;
  model: RunsModel;
  open: (id: string) => void;
  trans: TranslationBundle;
}

function Row({ run, model, open, trans }: IRowProps): React.ReactElement {
  const facts = [progress(run, trans), timeLeft(run, trans), lossSoFar(run, trans)].filter(Boolean);
  return (
    <li className="nbft-row" data-status={run.status}>
      <input
        type="checkbox"
        aria-label={trans.__('Select %1 to compare', run.name)}
        checked={model.selected.includes(run.id)}
        onChange={event => model.select(run.id, event.target.checked)}
      />
      <button className="nbft-row-open" onClick={() => open(run.id)} title={run.path}>
        <span className="nbft-row-line">
          <span className="nbft-row-name">{run.name}</span>
          <StatusWord run={run} trans={trans} />
        </span>
        <span className="nbft-row-line">
          <span className="nbft-muted nbft-row-what">
            {[run.model, run.method, run.data].filter(Boolean).join(' · ')}
          </span>
          <SmallCurve run={run} trans={trans} />
        </span>
        <span className="nbft-row-line">
          <span className="nbft-row-facts">
            {facts.map((fact, i) => (
              <span key={i}>{i < facts.length - 1 ? `${fact} · ` : fact}</span>
            ))}
          </span>
        </span>
      </button>
    </li>
  );
}

interface IStatusWordProps {
  run: IRun;
  trans: TranslationBundle;
}

export function StatusWord({ run, trans }: IStatusWordProps): React.ReactElement {
  return (
    <span className="nbft-status" data-status={run.status} data-active={isActive(run)}>
      {statusWords(run, new Date(), trans)}
    </span>
  );
}
