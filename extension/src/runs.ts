import {
  ILabShell,
  ILayoutRestorer,
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import {
  ICommandPalette,
  MainAreaWidget,
  showErrorMessage,
  WidgetTracker
} from '@jupyterlab/apputils';
import { IDefaultFileBrowser } from '@jupyterlab/filebrowser';
import { INotebookTracker, NotebookActions } from '@jupyterlab/notebook';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { SplitPanel, TabPanel, Widget } from '@lumino/widgets';

import '../style/runs.css';
import { Api } from './api';
import { CommandIDs, listArgument, textArgument } from './commands';
import { RunComparison } from './compare';
import { IDetailsActions, RunDetails } from './details';
import { runName } from './formatting';
import { fineTuneIcon } from './icon';
import { LARGEST_COMPARISON, RunsModel } from './model';
import { openNewNotebook } from './notebook';
import { RunsPanel } from './panel';
import { IPanelSettings } from './settings';
import { RunStatus } from './status';

/** Adds the side panel of all runs, the tabs that it opens and the item in the status bar. */
export const runsPlugin: JupyterFrontEndPlugin<void> = {
  id: 'nbft:runs',
  description: 'Shows active and past fine-tuning runs.',
  autoStart: true,
  requires: [IPanelSettings],
  optional: [
    ICommandPalette,
    ILayoutRestorer,
    IStatusBar,
    INotebookTracker,
    IDefaultFileBrowser,
    ILabShell,
    ITranslator
  ],
  activate: (
    app: JupyterFrontEnd,
    settings: IPanelSettings,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null,
    statusBar: IStatusBar | null,
    notebooks: INotebookTracker | null,
    fileBrowser: IDefaultFileBrowser | null,
    labShell: ILabShell | null,
    translator: ITranslator | null
  ) => {
    const { commands, serviceManager, shell } = app;
    const trans = (translator ?? nullTranslator).load('nbft');
    const api = new Api(serviceManager.serverSettings, trans);
    const model = new RunsModel(api, trans);
    const details = new WidgetTracker<MainAreaWidget<RunDetails>>({ namespace: 'nbft-runs' });
    const comparisons = new WidgetTracker<MainAreaWidget<RunComparison>>({
      namespace: 'nbft-comparisons'
    });

    const open = (id: string) => void commands.execute(CommandIDs.openRun, { id });
    const insertCell = async (path: string) => {
      const code = `import nbft\n\nnbft.attach(${JSON.stringify(path)})`;
      const notebook = notebooks?.currentWidget;
      if (notebook) {
        shell.activateById(notebook.id);
        NotebookActions.insertBelow(notebook.content);
        notebook.content.activeCell?.model.sharedModel.setSource(code);
        return;
      }
      try {
        await openNewNotebook(app, labShell, fileBrowser?.model.path ?? '', [code]);
      } catch (error) {
        await showErrorMessage(trans.__('The notebook could not be created'), error as Error);
      }
    };
    const openFolder = async (path: string) => {
      await commands.execute('filebrowser:go-to-path', { path });
      await commands.execute('filebrowser:activate');
    };
    const actions: IDetailsActions = {
      get openFolder() {
        return commands.hasCommand('filebrowser:go-to-path') ? openFolder : null;
      },
      insertCell,
      openRun: open,
      changed: () => model.refresh()
    };

    /** Show the widget that a tracker has, or else a new one. */
    const show = <T extends Widget>(
      tracker: WidgetTracker<MainAreaWidget<T>>,
      id: string,
      label: string,
      create: () => T
    ) => {
      let tab = tracker.find(widget => widget.id === id);
      if (!tab) {
        tab = new MainAreaWidget({ content: create() });
        tab.id = id;
        tab.title.label = label;
        tab.title.icon = fineTuneIcon;
        tab.title.closable = true;
        tab.title.caption = tab.content.title.caption;
        tab.content.node.setAttribute('aria-label', tab.title.caption); // the region's name
        addTab(shell, labShell, tab);
        void tracker.add(tab);
      }
      activateTab(shell, tab);
      return tab;
    };

    commands.addCommand(CommandIDs.showRuns, {
      label: trans.__('Show Fine-Tuning Runs'),
      caption: trans.__('Show the panel of all fine-tuning runs'),
      describedBy: { args: { type: 'object', properties: {} } },
      execute: () => shell.activateById(panel.id)
    });
    commands.addCommand(CommandIDs.openRun, {
      label: args => {
        const id = textArgument(args, 'id');
        return id ? trans.__('Open Run %1', runName(id)) : trans.__('Open a Fine-Tuning Run');
      },
      caption: trans.__('Show the curves, settings and log of a fine-tuning run'),
      describedBy: {
        args: {
          type: 'object',
          properties: {
            id: {
              type: 'string',
              description: trans.__('The id of the run; the list of runs is shown if left out')
            }
          }
        }
      },
      execute: args => {
        const id = textArgument(args, 'id');
        if (!id) {
          return commands.execute(CommandIDs.showRuns);
        }
        return show(
          details,
          `nbft-run-${id}`,
          runName(id),
          () => new RunDetails(api, id, actions, () => settings.interval, trans)
        );
      }
    });
    commands.addCommand(CommandIDs.compareRuns, {
      label: args => {
        if (!args['isToolbar']) {
          return trans.__('Compare Selected Fine-Tuning Runs');
        }
        const count = model.selected.length;
        return count ? trans.__('Compare %1', count) : trans.__('Compare');
      },
      caption: trans.__('Select two to %1 runs to compare', LARGEST_COMPARISON),
      describedBy: {
        args: {
          type: 'object',
          properties: {
            ids: {
              type: 'array',
              items: { type: 'string' },
              description: trans.__(
                'The ids of the runs; those that are selected in the panel if left out'
              )
            },
            isToolbar: {
              type: 'boolean',
              description: trans.__('Whether the label is for the toolbar of the panel')
            }
          }
        }
      },
      isEnabled: args => listArgument(args, 'ids') !== undefined || model.canCompare,
      execute: args => {
        const ids = listArgument(args, 'ids') ?? model.selected;
        if (ids.length < 2) {
          return commands.execute(CommandIDs.showRuns);
        }
        return show(
          comparisons,
          `nbft-compare-${ids.join('-')}`,
          trans._n('Compare %1 run', 'Compare %1 runs', ids.length),
          () => new RunComparison(api, [...ids], trans)
        );
      }
    });

    const panel = new RunsPanel(model, commands, trans);
    panel.title.icon = fineTuneIcon;
    panel.title.caption = trans.__('Fine-tuning runs');
    panel.disposed.connect(() => model.dispose());
    shell.add(panel, 'left', { rank: 500 });

    const follow = () => {
      model.interval = settings.interval;
      details.forEach(tab => tab.content.refresh());
    };
    settings.changed.connect(follow);
    model.interval = settings.interval;
    model.selectionChanged.connect(() => commands.notifyCommandChanged(CommandIDs.compareRuns));

    if (statusBar && labShell) {
      statusBar.registerStatusItem('nbft:status', {
        item: new RunStatus(model, open, trans),
        align: 'left',
        isActive: () => model.running !== undefined,
        activeStateChanged: model.changed
      });
    }
    for (const command of [CommandIDs.showRuns, CommandIDs.compareRuns]) {
      palette?.addItem({ command, category: trans.__('Fine-Tuning') });
    }
    restorer?.add(panel, panel.id);
    void restorer?.restore(details, {
      command: CommandIDs.openRun,
      args: tab => ({ id: tab.content.runId }),
      name: tab => tab.content.runId
    });
    void restorer?.restore(comparisons, {
      command: CommandIDs.compareRuns,
      args: tab => ({ ids: [...tab.content.ids] }),
      name: tab => tab.content.ids.join('-')
    });
  }
};

/**
 * Add a tab to the main area, or where there is room.
 *
 * A page of Jupyter Notebook shows one widget there and silently drops others. On the page of files
 * that is a panel of tabs, which takes one more; below a notebook is an area for tabs, since 7.4, and
 * before that there are the side panels.
 */
function addTab(shell: JupyterFrontEnd.IShell, labShell: ILabShell | null, tab: Widget): void {
  const tabs = labShell ? undefined : [...shell.widgets('main')].find(isTabPanel);
  if (tabs) {
    tabs.addWidget(tab);
    return;
  }
  shell.add(tab, labShell ? 'main' : 'down');
  if (!tab.parent) {
    shell.add(tab, 'right'); // an older Jupyter Notebook has no area below and drops the tab
  }
}

function activateTab(shell: JupyterFrontEnd.IShell, tab: Widget): void {
  const tabs = tab.parent?.parent; // a tab panel stacks its widgets in a panel inside it
  if (!isTabPanel(tabs)) {
    shell.activateById(tab.id);
    return;
  }
  const isOpening = tabs.isHidden;
  tabs.currentWidget = tab;
  shell.activateById(tab.id);
  if (isOpening && tabs.parent instanceof SplitPanel) {
    tabs.parent.setRelativeSizes([1, 1]); // below the notebook it opens without any height
  }
}

function isTabPanel(widget: Widget | null | undefined): widget is TabPanel {
  return widget instanceof TabPanel;
}
