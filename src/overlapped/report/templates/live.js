
"use strict";
// Puts what the server has drawn in place of what is shown. The page is complete without it.
const [link, bar, body, open, save, pause] =
  ["link", "bar", "body", "open", "save", "pause"].map(name => document.getElementById("o-" + name));
const LOST = "connection lost: trying again";
let waiting = null;  // the latest frame, while it is not to be shown
let isPaused = false;

function put(place, html) {  // what has not changed stays: its scroll position, its selection
  const made = document.createElement("template");
  made.innerHTML = html;
  const fresh = [...made.content.children], old = [...place.children];
  fresh.forEach((node, at) => {
    if (at >= old.length) {
      place.append(node);
    } else if (!old[at].isEqualNode(node)) {
      const left = old[at].scrollLeft;
      old[at].replaceWith(node);
      node.scrollLeft = left;
    }
  });
  old.slice(fresh.length).forEach(node => node.remove());
}

function show(frame) {
  document.title = frame.title;
  put(bar, frame.bar);
  put(body, frame.body);
}

function isReading() {  // a text that is being selected must not go away
  const chosen = getSelection();
  return chosen.type === "Range" && body.contains(chosen.anchorNode);
}

function take(frame) {
  waiting = isPaused || isReading() ? frame : null;
  if (!waiting) show(frame);
}

function tell(words) {  // only when it changes: it is read out
  if (link.textContent !== words) link.textContent = words;
  link.dataset.is = words === "live" ? "live" : words === LOST ? "lost" : "";
}

function end(last) {  // the server goes with the run: the report stays in this page
  show(last);
  tell(last.end);
  pause.hidden = true;
  open.hidden = save.hidden = !last.report;
  open.href = save.href = URL.createObjectURL(new Blob([last.report], {type: "text/html"}));
  open.textContent = "open the report";
  open.target = "_blank";
  save.download = last.name;
}

function connect() {
  const source = new EventSource("events");
  source.onopen = () => tell(isPaused ? "paused" : "live");
  source.onmessage = event => take(JSON.parse(event.data));
  source.addEventListener("end", event => {
    source.close();
    end(JSON.parse(event.data));
  });
  source.onerror = () => {
    tell(LOST);
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 3000);
  };
}

pause.onclick = () => {
  isPaused = !isPaused;
  pause.textContent = isPaused ? "go on" : "pause";
  if (link.textContent !== LOST) tell(isPaused ? "paused" : "live");
  if (!isPaused && waiting) take(waiting);
};
document.addEventListener("selectionchange", () => {
  if (waiting && !isPaused) take(waiting);
});
pause.hidden = false;
connect();
