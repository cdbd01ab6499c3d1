import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { Token } from '@lumino/coreutils';
import { ISignal, Signal } from '@lumino/signaling';

const DEFAULT_INTERVAL_MS = 2000; // as in schema/plugin.json

/** The settings of the extension: the defaults until others are loaded, or if none can be. */
export interface IPanelSettings {
  /** Milliseconds between two refreshes of active runs. */
  readonly interval: number;
  /** Emitted when a setting has changed. */
  readonly changed: ISignal<IPanelSettings, void>;
}

export const IPanelSettings = new Token<IPanelSettings>(
  'nbft:IPanelSettings',
  'The settings of the panel of fine-tuning runs.'
);

export class PanelSettings implements IPanelSettings {
  get interval(): number {
    return this._interval;
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /**
   * Load the settings and follow their changes.
   *
   * @throws What the registry rejects with: the schema is missing, a value is invalid, or the
   *   server does not answer.
   */
  async load(registry: ISettingRegistry, id: string): Promise<void> {
    const settings = await registry.load(id);
    const read = () => {
      const seconds = settings.get('pollSeconds').composite;
      this._interval = typeof seconds === 'number' ? seconds * 1000 : DEFAULT_INTERVAL_MS;
      this._changed.emit();
    };
    settings.changed.connect(read);
    read();
  }

  private readonly _changed = new Signal<this, void>(this);
  private _interval = DEFAULT_INTERVAL_MS;
}
