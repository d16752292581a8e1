/** FaithEIR in the browser: thumbnails become photographs where they are seen. */

export type { Device, Runtime } from "./engine.js";
export { RestoreError, type Reason } from "./errors.js";
export { readInfo, type ThumbnailInfo } from "./metadata.js";
export type { ModelFile, Precision } from "./models.js";
export type { ModelOffer, Report } from "./protocol.js";
export { configure, restore, type Defaults, type Options, type Restored, type Source } from "./restore.js";
export type { Rect, Region } from "./tiles.js";
export { defineElement, type Events, type State } from "./element.js";

import { defineElement } from "./element.js";

defineElement();
