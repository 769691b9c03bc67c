// A clock in a thread of its own: browsers let those of pages that nobody sees tick once a minute, too late for a session.

setInterval(() => postMessage(null), 15000);
