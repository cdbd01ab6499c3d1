import { Contents, KernelSpec, ServiceManager } from '@jupyterlab/services';

/** The cells of a new notebook with the form: from here on the form leads. */
const FORM_CELLS = ['import nbft', 'nbft.Form()'];

/**
 * Write a new notebook.
 *
 * @param services - Gives the folder's contents and the installed kernels.
 * @param folder - Where the notebook goes; a path of the contents API.
 * @param cells - The source of each cell; those that show the fine-tuning form if left out.
 * @returns The path of the notebook.
 * @throws An error of the contents API, for instance when the folder is read-only.
 */
export async function createNotebook(
  services: ServiceManager.IManager,
  folder: string,
  cells = FORM_CELLS
): Promise<string> {
  await services.kernelspecs.ready;
  const { path } = await services.contents.newUntitled({ path: folder, type: 'notebook' });
  const notebook: Partial<Contents.IModel> = {
    type: 'notebook',
    format: 'json',
    content: {
      nbformat: 4,
      nbformat_minor: 5,
      metadata: kernelMetadata(services.kernelspecs.specs),
      cells: cells.map((source, i) => ({
        id: `nbft-${i + 1}`,
        cell_type: 'code',
        execution_count: null,
        metadata: {},
        outputs: [],
        source
      }))
    }
  };
  await services.contents.save(path, notebook);
  return path;
}

/** Name a Python kernel, the default one if it is Python, so that JupyterLab does not ask. */
function kernelMetadata(specs: KernelSpec.ISpecModels | null): object {
  const kernels = [specs?.kernelspecs[specs.default], ...Object.values(specs?.kernelspecs ?? {})];
  const python = kernels.find(kernel => kernel?.language === 'python');
  if (!python) {
    return {};
  }
  const { name, display_name, language } = python;
  return { kernelspec: { name, display_name, language } };
}
