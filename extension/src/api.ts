// The routes of nbft/server/openapi.yaml.

import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import { nullTranslator, TranslationBundle } from '@jupyterlab/translation';

/** A number as JSON holds it: one that is not finite is written as its name. */
export type JsonNumber = number | 'NaN' | 'Infinity' | '-Infinity' | null;

export type Status =
  | 'created'
  | 'queued'
  | 'running'
  | 'paused'
  | 'completed'
  | 'stopped'
  | 'cancelled'
  | 'failed'
  | 'lost';

export type Command = 'stop' | 'pause' | 'continue' | 'save' | 'sample' | 'cancel' | 'move_up';

export interface IRun {
  id: string;
  path: string;
  folder: string | null;
  status: Status;
  /** The other machine that has the run; null if it is this one, or the run is over. */
  host: string | null;
  /** The last sign of life of a run on another machine, in seconds since the epoch. */
  heard: number | null;
  name: string;
  model: string | null;
  method: string | null;
  data: string | null;
  rows: number | null;
  step: number;
  total_steps: number | null;
  loss: JsonNumber;
  eval_loss: JsonNumber;
  /** What it is doing besides steps, in words; a server of an earlier version does not say. */
  stage?: string;
  seconds_left: JsonNumber;
  started: number;
  ended: number | null;
  curve: [number, JsonNumber][];
  problems: string[];
  allowed: (Command | 'resume' | 'delete')[];
}

export interface IRuns {
  version: string;
  total: number;
  matching: number;
  runs: IRun[];
}

export interface IDetails extends IRun {
  settings: Record<string, [unknown, unknown]>;
  /** What to start it again with, in words, where memory ran out. */
  fixes: string[];
}

export interface ISeries {
  name: string;
  label: string;
  color: string;
  style: 'line' | 'marks';
  smooth: boolean;
}

export interface IChart {
  title: string;
  series: ISeries[];
  /** The step, and the value of each series; null where it has none. */
  rows: JsonNumber[][];
}

export interface IScores {
  tables: { name: string; caption: string; head: string[]; rows: string[][] }[];
  charts: IChart[];
}

export interface IAnswers {
  title: string;
  prompt: string;
  answers: { when: string; text: string }[];
}

/** What there is to draw of a run, as far as it changed since `after`. */
export interface IState {
  /** Whether this replaces every earlier answer. */
  whole: boolean;
  next: string;
  more: boolean;
  /** How many events there are other than measurements of the training. */
  said: number;
  smoothing: number;
  /** The rows replace those from the step of the first of them on. */
  charts: IChart[];
  /** Null where they are as they were, like scores and answers. */
  notes: string[] | null;
  scores: IScores | null;
  answers: IAnswers[] | null;
}

export interface IComparison {
  runs: IRun[];
  chart: IChart;
  smoothing: number;
  settings: Record<string, unknown[]>;
}

/** One kind of export, and what may be chosen about it. */
export interface IExportFormat {
  name: string;
  title: string;
  /** Who loads it, in a sentence. */
  about: string;
  options: string[];
  /** Number types of the weights, each with what a button offers; one without where there is none. */
  choices: { dtype: string; offer: string; is_usual: boolean }[];
  /** The folder that is written unless another is named, relative to the server's root. */
  folder: string;
  /** Why the run cannot be exported so; empty if nothing is known to be against it. */
  problem: string;
}

export interface IExport {
  format: string;
  path: string;
  /** Relative to the server's root; null if it is elsewhere or gone. */
  folder: string | null;
  time: number;
  passed: boolean;
  proof: string;
  /** What loads, serves or asks it. */
  commands: string[];
}

export interface IExports {
  /** None without an adapter, in a shared folder, or while an export goes on. */
  formats: IExportFormat[];
  /** What each option is for. */
  help: Record<string, string>;
  free_bytes: number;
  /** The newest first. */
  exports: IExport[];
  /** The export that was started here last. */
  last: { format: string; folder: string; is_going: boolean; text: string } | null;
}

/** What to export; what is left out is as usual. */
export interface IExportRequest {
  to: string;
  folder?: string;
  dtype?: string;
  max_shard_size?: string;
  repo_id?: string;
  private?: boolean;
  adapter?: boolean;
}

/** Asks the server about runs. Every failure is an Error with one sentence. */
export class Api {
  constructor(
    private readonly _settings: ServerConnection.ISettings,
    private readonly _trans: TranslationBundle = nullTranslator.load('nbft')
  ) {}

  runs(search: string): Promise<IRuns> {
    return this._ask(`runs?search=${encodeURIComponent(search)}`);
  }

  details(id: string): Promise<IDetails> {
    return this._ask(`runs/${encodeURIComponent(id)}`);
  }

  state(id: string, after: string): Promise<IState> {
    return this._ask(`runs/${encodeURIComponent(id)}/state?after=${encodeURIComponent(after)}`);
  }

  log(id: string): Promise<{ text: string; truncated: boolean }> {
    return this._ask(`runs/${encodeURIComponent(id)}/log`);
  }

  compare(ids: string[]): Promise<IComparison> {
    return this._ask(`compare?ids=${ids.map(encodeURIComponent).join(',')}`);
  }

  command(id: string, command: Command): Promise<IRun> {
    const body = JSON.stringify({ command });
    return this._ask(`runs/${encodeURIComponent(id)}/commands`, { method: 'POST', body });
  }

  resume(id: string): Promise<IRun> {
    return this._ask(`runs/${encodeURIComponent(id)}/resume`, { method: 'POST' });
  }

  /** Start a new run with one of a run's fixes. */
  retry(id: string, fix: number): Promise<IRun> {
    const body = JSON.stringify({ fix });
    return this._ask(`runs/${encodeURIComponent(id)}/retry`, { method: 'POST', body });
  }

  exports(id: string): Promise<IExports> {
    return this._ask(`runs/${encodeURIComponent(id)}/exports`);
  }

  /** Start an export, which a process of the server's machine does. */
  export(id: string, request: IExportRequest): Promise<IExports> {
    const body = JSON.stringify(request);
    return this._ask(`runs/${encodeURIComponent(id)}/exports`, { method: 'POST', body });
  }

  /** Stop the export that is going on. */
  stopExport(id: string): Promise<IExports> {
    return this._ask(`runs/${encodeURIComponent(id)}/exports`, { method: 'DELETE' });
  }

  /** Delete a run; the answer names what stays because nbft did not write it. */
  delete(id: string): Promise<{ left: string[] } | undefined> {
    return this._ask(`runs/${encodeURIComponent(id)}`, { method: 'DELETE' });
  }

  private async _ask<T>(path: string, init: RequestInit = {}): Promise<T> {
    const url = URLExt.join(this._settings.baseUrl, 'nbft/api', path);
    let answer: Response;
    try {
      answer = await ServerConnection.makeRequest(url, init, this._settings);
    } catch {
      throw new Error(this._trans.__('The Jupyter server does not respond.'));
    }
    const text = await answer.text();
    let body: unknown;
    try {
      body = text ? JSON.parse(text) : undefined;
    } catch {
      body = undefined; // a page of the server, or of a proxy before it
    }
    if (answer.ok) {
      return body as T;
    }
    // A 404 of nbft comes with a message; one without means that nbft is not there.
    const otherwise =
      answer.status === 404
        ? this._trans.__(
            'The server extension of nbft is not running. Install nbft in the environment that ' +
              'Jupyter runs in, then check `jupyter server extension list`.'
          )
        : this._trans.__('The server responds with status %1.', answer.status);
    throw new Error((body as { message?: string } | undefined)?.message ?? otherwise);
  }
}
