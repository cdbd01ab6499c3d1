import { ILabShell, JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, Notification, showErrorMessage } from '@jupyterlab/apputils';
import { IDefaultFileBrowser } from '@jupyterlab/filebrowser';
import { ILauncher } from '@jupyterlab/launcher';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';

import fineTuneSvg from '../style/fine-tune.svg';
import { CommandIDs, textArgument } from './commands';
import { filesPlugin } from './files';
import { fineTuneIcon } from './icon';
import { FORM_CELLS, openNewNotebook } from './notebook';
import { runsPlugin } from './runs';
import { IPanelSettings, PanelSettings } from './settings';

/** Loads the settings. Its id is that of the schema, so it is what the settings editor shows. */
const settingsPlugin: JupyterFrontEndPlugin<IPanelSettings> = {
  id: 'nbft:plugin',
  description: 'Provides the settings of the panel of fine-tuning runs.',
  autoStart: true,
  provides: IPanelSettings,
  optional: [ISettingRegistry, ITranslator],
  activate: (
    _: JupyterFrontEnd,
    registry: ISettingRegistry | null,
    translator: ITranslator | null
  ): IPanelSettings => {
    const trans = (translator ?? nullTranslator).load('nbft');
    const settings = new PanelSettings();
    // Nobody waits for this: the defaults hold until then.
    const loaded = registry ? settings.load(registry, settingsPlugin.id) : Promise.resolve();
    loaded.catch(reason =>
      Notification.warning(
        trans.__('The settings of nbft could not be loaded; the defaults are used. %1', why(reason))
      )
    );
    return settings;
  }
};

/** Adds a launcher card and a command that open a notebook with the fine-tuning form. */
const notebookPlugin: JupyterFrontEndPlugin<void> = {
  id: 'nbft:notebook',
  description: 'Opens a notebook with the fine-tuning form.',
  autoStart: true,
  optional: [ICommandPalette, ILauncher, IDefaultFileBrowser, ILabShell, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    palette: ICommandPalette | null,
    launcher: ILauncher | null,
    fileBrowser: IDefaultFileBrowser | null,
    labShell: ILabShell | null,
    translator: ITranslator | null
  ) => {
    const { commands } = app;
    const trans = (translator ?? nullTranslator).load('nbft');
    const jupyterlab = (translator ?? nullTranslator).load('jupyterlab'); // names its categories

    commands.addCommand(CommandIDs.newNotebook, {
      label: args =>
        args['isPalette']
          ? trans.__('New Notebook to Fine-Tune a Model')
          : trans.__('Fine-tune a model'),
      caption: trans.__('Open a notebook with the fine-tuning form'),
      icon: fineTuneIcon,
      describedBy: {
        args: {
          type: 'object',
          properties: {
            cwd: {
              type: 'string',
              description: trans.__(
                'The folder of the notebook; that of the file browser if left out'
              )
            },
            isPalette: {
              type: 'boolean',
              description: trans.__('Whether the label is for the command palette')
            }
          }
        }
      },
      execute: async args => {
        const folder = textArgument(args, 'cwd') ?? fileBrowser?.model.path ?? '';
        try {
          return await openNewNotebook(app, labShell, folder, FORM_CELLS);
        } catch (error) {
          await showErrorMessage(trans.__('The notebook could not be created'), error as Error);
          return undefined;
        }
      }
    });

    palette?.addItem({
      command: CommandIDs.newNotebook,
      category: jupyterlab.__('Notebook Operations'),
      args: { isPalette: true }
    });
    launcher?.add({
      command: CommandIDs.newNotebook,
      category: jupyterlab.__('Notebook'),
      rank: 10,
      // Cards of this category show the icon of a kernel, never that of a command.
      kernelIconUrl: `data:image/svg+xml,${encodeURIComponent(fineTuneSvg)}`
    });
  }
};

/** The registry rejects with an error, or with a list of what is invalid. */
function why(reason: unknown): string {
  const first: unknown = Array.isArray(reason) ? reason[0] : reason;
  return (first as Error | undefined)?.message ?? '';
}

export default [settingsPlugin, notebookPlugin, filesPlugin, runsPlugin];
