import { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { PageConfig } from '@jupyterlab/coreutils';
import { IDocumentManager } from '@jupyterlab/docmanager';
import { FileDialog, IDefaultFileBrowser } from '@jupyterlab/filebrowser';
import { Contents } from '@jupyterlab/services';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';

/** What a widget of the form asks for: a file with one of some endings, by its path on the server. */
interface IWish {
  endings: string[];
  choose: (path: string) => void;
}

/** Opens JupyterLab's file dialog for the form, which knows of it by a mark of the page. */
export const filesPlugin: JupyterFrontEndPlugin<void> = {
  id: 'nbft:files',
  description: 'Lets the form choose a file in a dialog of JupyterLab.',
  autoStart: true,
  requires: [IDocumentManager],
  optional: [IDefaultFileBrowser, ITranslator],
  activate: (
    _: JupyterFrontEnd,
    manager: IDocumentManager,
    fileBrowser: IDefaultFileBrowser | null,
    translator: ITranslator | null
  ) => {
    const trans = (translator ?? nullTranslator).load('nbft');
    const ask = async ({ endings, choose }: IWish): Promise<void> => {
      const { value, button } = await FileDialog.getOpenFiles({
        manager,
        title: trans.__('Data file'),
        defaultPath: fileBrowser?.model.path,
        filter: model => (isOffered(model, endings) ? {} : null),
        translator: translator ?? undefined
      });
      if (button.accept && value?.length) {
        const path = manager.services.contents.localPath(value[0].path);
        choose(`${PageConfig.getOption('serverRoot')}/${path}`);
      }
    };
    document.addEventListener('nbft:choose-file', event => {
      void ask((event as CustomEvent<IWish>).detail);
    });
    document.body.dataset.nbftFiles = '';
  }
};

/** Folders lead to files. */
function isOffered(model: Contents.IModel, endings: string[]): boolean {
  const name = model.name.toLowerCase();
  return model.type === 'directory' || endings.some(ending => name.endsWith(ending));
}
