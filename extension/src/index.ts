import { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, showErrorMessage } from '@jupyterlab/apputils';
import { IDefaultFileBrowser } from '@jupyterlab/filebrowser';
import { ILauncher } from '@jupyterlab/launcher';

import fineTuneSvg from '../style/fine-tune.svg';
import { CommandIDs } from './commands';
import { fineTuneIcon } from './icon';
import { createNotebook } from './notebook';
import { runsPlugin } from './runs';

/** Adds a launcher card and a command that open a notebook with the fine-tuning form. */
const notebookPlugin: JupyterFrontEndPlugin<void> = {
  id: 'nbft:plugin',
  description: 'Opens a notebook with the fine-tuning form.',
  autoStart: true,
  optional: [ICommandPalette, ILauncher, IDefaultFileBrowser],
  activate: (
    app: JupyterFrontEnd,
    palette: ICommandPalette | null,
    launcher: ILauncher | null,
    fileBrowser: IDefaultFileBrowser | null
  ) => {
    const { commands, serviceManager } = app;

    commands.addCommand(CommandIDs.newNotebook, {
      label: args =>
        args['isPalette'] ? 'New Notebook to Fine-Tune a Model' : 'Fine-tune a model',
      caption: 'Open a notebook with the fine-tuning form',
      icon: fineTuneIcon,
      execute: async args => {
        const folder = (args['cwd'] as string | undefined) ?? fileBrowser?.model.path ?? '';
        try {
          const path = await createNotebook(serviceManager, folder);
          return await commands.execute('docmanager:open', { path });
        } catch (error) {
          await showErrorMessage('The notebook could not be created', error as Error);
        }
      }
    });

    palette?.addItem({
      command: CommandIDs.newNotebook,
      category: 'Notebook Operations',
      args: { isPalette: true }
    });
    launcher?.add({
      command: CommandIDs.newNotebook,
      category: 'Notebook',
      rank: 10,
      // Cards of this category show the icon of a kernel, never that of a command.
      kernelIconUrl: `data:image/svg+xml,${encodeURIComponent(fineTuneSvg)}`
    });
  }
};

export default [notebookPlugin, runsPlugin];
