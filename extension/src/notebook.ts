import { ILabShell, JupyterFrontEnd } from '@jupyterlab/application';
import { NotebookActions, NotebookPanel } from '@jupyterlab/notebook';
import { KernelSpec, ServiceManager } from '@jupyterlab/services';

/** The cells of a new notebook with the form: one, to be run again after a restart. */
export const FORM_CELLS = ['import nbft\n\nnbft.Form()'];

/** Said where the cells have to be run by hand. */
const HOW_TO_RUN = '# Press Shift+Enter to run this cell.\n';

/**
 * Open a new notebook with a Python kernel, and run its cells.
 *
 * Jupyter Notebook opens it in a tab of its own, where they wait for the reader.
 *
 * @param app - JupyterLab or Jupyter Notebook.
 * @param labShell - The shell of JupyterLab; null in Jupyter Notebook.
 * @param folder - Where the notebook goes; a path of the contents API.
 * @param cells - The source of each cell.
 * @returns The notebook, unless it opens in another tab of the browser.
 * @throws An error of the contents API, for instance when the folder is read-only.
 */
export async function openNewNotebook(
  { commands, serviceManager }: JupyterFrontEnd,
  labShell: ILabShell | null,
  folder: string,
  cells: string[]
): Promise<NotebookPanel | undefined> {
  await serviceManager.kernelspecs.ready;
  const kernel = pythonKernel(serviceManager.kernelspecs.specs);
  if (!labShell) {
    // Jupyter Notebook opens documents in a browser tab of their own, which reads the file: the
    // cells must be there before.
    const [first = '', ...others] = cells;
    const told = [HOW_TO_RUN + first, ...others];
    const path = await writeNotebook(serviceManager, folder, told, kernel);
    await commands.execute('docmanager:open', { path });
    return undefined;
  }
  const args = { cwd: folder, kernelName: kernel?.name };
  const panel = (await commands.execute('notebook:create-new', args)) as NotebookPanel | undefined;
  await panel?.context.ready;
  const notebook = panel?.context.model.sharedModel;
  if (notebook) {
    const given = notebook.cells.length; // an empty cell, if JupyterLab has added it already
    notebook.transact(() => {
      notebook.insertCells(0, codeCells(cells));
      notebook.deleteCellRange(cells.length, cells.length + given);
      if (kernel) {
        notebook.setMetadata('kernelspec', kernelspec(kernel));
      }
    });
    await panel.context.save();
    await panel.sessionContext.ready;
    await NotebookActions.runAll(panel.content, panel.sessionContext);
  }
  return panel;
}

async function writeNotebook(
  { contents }: ServiceManager.IManager,
  folder: string,
  cells: string[],
  kernel: KernelSpec.ISpecModel | undefined
): Promise<string> {
  const { path } = await contents.newUntitled({ path: folder, type: 'notebook' });
  const content = {
    nbformat: 4,
    nbformat_minor: 5,
    metadata: kernel ? { kernelspec: kernelspec(kernel) } : {},
    cells: codeCells(cells).map((cell, i) => ({ id: `nbft-${i + 1}`, ...cell }))
  };
  await contents.save(path, { type: 'notebook', format: 'json', content });
  return path;
}

function codeCells(sources: string[]) {
  return sources.map(source => ({
    cell_type: 'code' as const,
    execution_count: null,
    metadata: {},
    outputs: [],
    source
  }));
}

/** The name of the kernel, so that JupyterLab does not ask for one. */
function kernelspec({ name, display_name, language }: KernelSpec.ISpecModel) {
  return { name, display_name, language };
}

/** A Python kernel: the default one if it is Python. */
function pythonKernel(specs: KernelSpec.ISpecModels | null): KernelSpec.ISpecModel | undefined {
  const kernels = [specs?.kernelspecs[specs.default], ...Object.values(specs?.kernelspecs ?? {})];
  return kernels.find(kernel => kernel?.language === 'python');
}
