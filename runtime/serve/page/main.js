// Puts the page together.

import { Api } from "./api.js";
import { App } from "./app.js";

const app = new App(new Api(), document);

window.viewerState = () => app.state();
window.viewerPoint = (kji) => app.point(kji);
app.start().catch((error) => app.fail(error));
