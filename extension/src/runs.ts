import {
  ILabShell,
  ILayoutRestorer,
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { ICommandPalette, MainAreaWidget, WidgetTracker } from '@jupyterlab/apputils';
import { IDefaultFileBrowser } from '@jupyterlab/filebrowser';
import { INotebookTracker, NotebookActions } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';
import { Widget } from '@lumino/widgets';

import '../style/runs.css';
import { Api } from './api';
import { CommandIDs } from './commands';
import { RunComparison } from './compare';
import { RunDetails } from './details';
import { fineTuneIcon } from './icon';
import { RunsModel } from './model';
import { createNotebook } from './notebook';
import { RunsPanel } from './panel';
import { RunStatus } from './status';

const CATEGORY = 'Fine-Tuning';

/** Adds the side panel of all runs, the tabs that it opens and the item in the status bar. */
export const runsPlugin: JupyterFrontEndPlugin<void> = {
  id: 'nbft:runs',
  description: 'Shows the fine-tuning runs, old and at work.',
  autoStart: true,
  optional: [
    ICommandPalette,
    ILayoutRestorer,
    ISettingRegistry,
    IStatusBar,
    INotebookTracker,
    IDefaultFileBrowser,
    ILabShell
  ],
  activate: (
    app: JupyterFrontEnd,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null,
    settingRegistry: ISettingRegistry | null,
    statusBar: IStatusBar | null,
    notebooks: INotebookTracker | null,
    fileBrowser: IDefaultFileBrowser | null,
    labShell: ILabShell | null
  ) => {
    const { commands, serviceManager, shell } = app;
    const api = new Api(serviceManager.serverSettings);
    const model = new RunsModel(api);
    let interval = 2000;

    void settingRegistry?.load('nbft:plugin').then(settings => {
      const read = () => {
        interval = (settings.get('pollSeconds').composite as number) * 1000;
        model.interval = interval;
      };
      settings.changed.connect(read);
      read();
    });

    const insertCell = async (path: string) => {
      const code = `import nbft\n\nnbft.attach(${JSON.stringify(path)})`;
      const panel = notebooks?.currentWidget;
      if (!panel) {
        const notebook = await createNotebook(serviceManager, fileBrowser?.model.path ?? '', [
          code
        ]);
        await commands.execute('docmanager:open', { path: notebook });
        return;
      }
      shell.activateById(panel.id);
      NotebookActions.insertBelow(panel.content);
      panel.content.activeCell?.model.sharedModel.setSource(code);
    };
    const openFolder = async (path: string) => {
      await commands.execute('filebrowser:go-to-path', { path });
      await commands.execute('filebrowser:activate');
    };

    /** Show the tab of an id, which is made when none is open. */
    const showTab = <T extends Widget>(id: string, label: string, content: () => T) => {
      const open = [...shell.widgets('main')].find(widget => widget.id === id);
      const tab = (open as MainAreaWidget<T>) ?? new MainAreaWidget({ content: content() });
      if (!open) {
        tab.id = id;
        tab.title.label = label;
        tab.title.icon = fineTuneIcon;
        tab.title.closable = true;
        tab.title.caption = tab.content.title.caption;
        tab.content.node.setAttribute('aria-label', tab.title.caption); // the region's name
        shell.add(tab, 'main');
      }
      shell.activateById(id);
      return tab;
    };
    const tracker = new WidgetTracker<MainAreaWidget<RunDetails>>({ namespace: 'nbft-runs' });

    commands.addCommand(CommandIDs.showRuns, {
      label: 'Show Fine-Tuning Runs',
      caption: 'Show the panel of all fine-tuning runs',
      execute: () => shell.activateById(panel.id)
    });
    commands.addCommand(CommandIDs.openRun, {
      label: args => `Open the Run ${args['id'] ?? ''}`,
      execute: args => {
        const id = args['id'] as string;
        const actions = {
          openFolder: fileBrowser ? openFolder : null,
          insertCell,
          openRun: open,
          changed: () => model.refresh()
        };
        const tab = showTab(
          `nbft-run-${id}`,
          id.slice(0, id.lastIndexOf('~')),
          () => new RunDetails(api, id, actions, () => interval)
        );
        if (!tracker.has(tab)) {
          void tracker.add(tab);
        }
        return tab;
      }
    });
    commands.addCommand(CommandIDs.compareRuns, {
      label: 'Compare the Chosen Fine-Tuning Runs',
      isEnabled: args => args['ids'] !== undefined || model.canCompare,
      execute: args => {
        const ids = (args['ids'] as string[] | undefined) ?? [...model.selected];
        return showTab(
          `nbft-compare-${ids.join('-')}`,
          `Compare ${ids.length} runs`,
          () => new RunComparison(api, ids)
        );
      }
    });
    model.changed.connect(() => commands.notifyCommandChanged(CommandIDs.compareRuns));

    const open = (id: string) => void commands.execute(CommandIDs.openRun, { id });
    const panel = new RunsPanel(model, {
      open,
      compare: ids => void commands.execute(CommandIDs.compareRuns, { ids: [...ids] }),
      newNotebook: () => void commands.execute(CommandIDs.newNotebook)
    });
    panel.title.icon = fineTuneIcon;
    panel.title.caption = 'Fine-tuning runs';
    shell.add(panel, 'left', { rank: 500 });

    if (statusBar && labShell) {
      statusBar.registerStatusItem('nbft:status', {
        item: new RunStatus(model, open),
        align: 'left',
        isActive: () => model.running !== undefined,
        activeStateChanged: model.changed
      });
    }
    for (const command of [CommandIDs.showRuns, CommandIDs.compareRuns]) {
      palette?.addItem({ command, category: CATEGORY });
    }
    restorer?.add(panel, panel.id);
    void restorer?.restore(tracker, {
      command: CommandIDs.openRun,
      args: tab => ({ id: tab.content.runId }),
      name: tab => tab.content.runId
    });
  }
};
