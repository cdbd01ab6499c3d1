import { LabIcon } from '@jupyterlab/ui-components';

import fineTuneSvg from '../style/fine-tune.svg';

export const fineTuneIcon = new LabIcon({ name: 'nbft:fine-tune', svgstr: fineTuneSvg });
