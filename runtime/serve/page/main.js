// Puts the page together.

import { Api } from "./api.js";
import { App } from "./app.js";

const app = new App(new Api(), document);

window.viewerState = () => app.state();
window.viewerPoint = (kji) => app.point(kji);
// What nobody has foreseen is not kept from the user. Browsers tell of layouts that take two rounds here too, without an error.
addEventListener("error", ({ error }) => error && app.failed(error));
addEventListener("unhandledrejection", ({ reason }) => app.failed(reason));
app.start();
