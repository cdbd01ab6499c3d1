import { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import { IExport, IExportFormat, IExportRequest, IExports } from './api';
import { size } from './formatting';

/** What is typed or chosen in the form, whatever the format. */
export interface IExportChoices {
  dtype?: string;
  folder?: string;
  max_shard_size: string;
  repo_id: string;
  private: boolean;
  adapter: boolean;
}

export const USUAL: IExportChoices = {
  max_shard_size: '5GB',
  repo_id: '',
  private: true,
  adapter: false
};

/** The request of a format and what was chosen; only what the format uses is in it. */
export function exportRequest(format: IExportFormat, choices: IExportChoices): IExportRequest {
  const request: IExportRequest = { to: format.name, folder: choices.folder ?? format.folder };
  const uses = (name: string) => format.options.includes(name);
  const dtype = choice(format, choices.dtype).dtype;
  const isAdapter = uses('adapter') && choices.adapter;
  if (uses('dtype') && dtype && !isAdapter) {
    request.dtype = dtype; // the adapter's files are copied as they are
  }
  if (uses('max_shard_size')) {
    request.max_shard_size = choices.max_shard_size.trim();
  }
  if (uses('repo_id')) {
    request.repo_id = choices.repo_id.trim();
  }
  if (uses('private')) {
    request.private = choices.private;
  }
  if (uses('adapter')) {
    request.adapter = choices.adapter;
  }
  return request;
}

/** The number type that was chosen, or else the usual one. */
export function choice(format: IExportFormat, dtype?: string): IExportFormat['choices'][number] {
  const { choices } = format;
  return (
    choices.find(one => one.dtype === dtype) ?? choices.find(one => one.is_usual) ?? choices[0]
  );
}

/** What to agree to before an upload; empty for an export that stays on the machine. */
export function uploadQuestion(
  name: string,
  request: IExportRequest,
  trans: TranslationBundle
): string {
  if (request.repo_id === undefined) {
    return '';
  }
  const place = `huggingface.co/${request.repo_id}`;
  if (request.private) {
    return request.adapter
      ? trans.__('The adapter of %1 is uploaded to %2, for you alone.', name, place)
      : trans.__('The merged model of %1 is uploaded to %2, for you alone.', name, place);
  }
  return request.adapter
    ? trans.__('The adapter of %1 is uploaded to %2, for everybody.', name, place)
    : trans.__('The merged model of %1 is uploaded to %2, for everybody.', name, place);
}

interface IFormProps {
  exports: IExports;
  /** Why the last request was refused. */
  refused: string;
  start: (request: IExportRequest) => void;
  stop: () => void;
  trans: TranslationBundle;
}

/** A button that opens the form in place; while an export goes on, what it does. */
export function ExportForm(props: IFormProps): React.ReactElement | null {
  const { exports, refused, stop, trans } = props;
  const { formats, last } = exports;
  const [isOpen, setOpen] = React.useState(false);
  const id = React.useId();
  const isGoing = last?.is_going ?? false;
  if (!formats.length && !isGoing) {
    return null;
  }
  if (isGoing && isOpen) {
    setOpen(false); // what was asked for is done; its proof is below
  }
  const going = isGoing
    ? trans.__('Exporting to %1. %2', last?.folder ?? '', last?.text ?? '')
    : '';
  return (
    <section className="nbft-export" aria-label={trans.__('Export')}>
      {isGoing ? (
        <button className="nbft-button" onClick={stop}>
          {trans.__('Stop the export')}
        </button>
      ) : (
        <button
          className="nbft-button"
          aria-expanded={isOpen}
          aria-controls={id}
          onClick={() => setOpen(!isOpen)}
        >
          {trans.__('Export…')}
        </button>
      )}
      <div id={id} hidden={isGoing || !isOpen}>
        {isOpen && !isGoing && <ExportFields {...props} />}
      </div>
      <p role="status" aria-label={trans.__('State of the export')}>
        {refused || going || last?.text}
      </p>
    </section>
  );
}

function ExportFields({ exports, start, trans }: IFormProps): React.ReactElement {
  const { formats, help, free_bytes } = exports;
  const [name, setName] = React.useState('');
  const [choices, setChoices] = React.useState(USUAL);
  const usual =
    formats.find(one => one.name === 'gguf' && !one.problem) ??
    formats.find(one => !one.problem) ??
    formats[0];
  const format = formats.find(one => one.name === name) ?? usual;
  const change = (values: Partial<IExportChoices>) => setChoices({ ...choices, ...values });
  const request = exportRequest(format, choices);
  const isAdapter = request.adapter ?? false;
  const labels: Record<string, string> = {
    max_shard_size: trans.__('Largest file'),
    repo_id: trans.__('Repository'),
    private: trans.__('Private'),
    adapter: trans.__('Adapter only')
  };
  return (
    <form
      onSubmit={event => {
        event.preventDefault();
        start(request);
      }}
    >
      <Field label={trans.__('Format')} help={format.about}>
        <select
          value={format.name}
          onChange={event => {
            setName(event.target.value);
            change({ dtype: undefined, folder: undefined });
          }}
        >
          {formats.map(one => (
            <option key={one.name} value={one.name}>
              {one.title}
            </option>
          ))}
        </select>
      </Field>
      {format.options.includes('dtype') && !isAdapter && (
        <Field label={trans.__('Number type')} help={help.dtype}>
          <select
            value={choice(format, choices.dtype).dtype}
            onChange={event => change({ dtype: event.target.value })}
          >
            {format.choices.map(one => (
              <option key={one.dtype}>{one.dtype}</option>
            ))}
          </select>
        </Field>
      )}
      {(['max_shard_size', 'repo_id'] as const)
        .filter(option => format.options.includes(option))
        .map(option => (
          <Field key={option} label={labels[option]} help={help[option]}>
            <input
              value={choices[option]}
              onChange={event => change({ [option]: event.target.value })}
            />
          </Field>
        ))}
      {(['private', 'adapter'] as const)
        .filter(option => format.options.includes(option))
        .map(option => (
          <Field key={option} label={labels[option]} help={help[option]}>
            <input
              type="checkbox"
              checked={choices[option]}
              onChange={event => change({ [option]: event.target.checked })}
            />
          </Field>
        ))}
      <Field
        label={trans.__('Folder')}
        help={trans.__('Below the server’s root folder, where %1 are free.', size(free_bytes))}
      >
        <input
          value={choices.folder ?? format.folder}
          onChange={event => change({ folder: event.target.value })}
        />
      </Field>
      {format.problem && <p className="nbft-notice">{format.problem}</p>}
      <button className="nbft-button nbft-mod-main" type="submit" disabled={format.problem !== ''}>
        {isAdapter ? trans.__('Upload the adapter') : choice(format, choices.dtype).offer}
      </button>
    </form>
  );
}

interface IFieldProps {
  label: string;
  help: string | undefined;
  children: React.ReactElement<{ 'aria-describedby'?: string }>;
}

/** A control with its label, and its help below. */
function Field({ label, help, children }: IFieldProps): React.ReactElement {
  const id = React.useId();
  return (
    <div className="nbft-export-field">
      <label>
        <span>{label}</span>
        {React.cloneElement(children, { 'aria-describedby': id })}
      </label>
      <div id={id} className="nbft-export-help">
        {help}
      </div>
    </div>
  );
}

interface IListProps {
  exports: IExport[];
  openFolder: ((folder: string) => Promise<void>) | null;
  trans: TranslationBundle;
}

/** The exports of a run, each with its proof and the way to its folder. */
export function ExportList({ exports, openFolder, trans }: IListProps): React.ReactElement | null {
  if (!exports.length) {
    return null;
  }
  return (
    <>
      <h2>{trans.__('Exports')}</h2>
      <ul className="nbft-exports" aria-label={trans.__('Exports')}>
        {exports.map(({ format, path, folder, passed, proof, commands }) => (
          <li key={path}>
            <b>{passed ? trans.__('%1: the proof passed.', format) : format}</b> {proof}
            <div className="nbft-path">
              {path}{' '}
              {openFolder && folder !== null && (
                <button
                  className="nbft-button"
                  aria-label={trans.__('Open the folder %1', folder)}
                  onClick={() => void openFolder(folder)}
                >
                  {trans.__('Open folder')}
                </button>
              )}
            </div>
            {commands.map(command => (
              <pre
                key={command}
                className="nbft-log"
                tabIndex={0}
                aria-label={trans.__('Next command')}
              >
                {command}
              </pre>
            ))}
          </li>
        ))}
      </ul>
    </>
  );
}
