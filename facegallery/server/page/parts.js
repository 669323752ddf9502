// What the views share: elements, messages, the dialog.

/** An element: make('p', { className: 'x', onclick: f }, 'text', child, ...). Text is never read as markup. */
export function make(tag, settings = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(settings)) {
    if (value === undefined || value === null || value === false) continue;
    if (name in element && !name.startsWith('aria')) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat().filter(child => child !== undefined && child !== null && child !== false));
  return element;
}

const [dialog, news, said] = ['dialog', 'news', 'said'].map(id => document.getElementById(id));

/** A button that ignores clicks while its action is running. */
export function button(text, onclick, settings = {}) {
  let busy = false;
  const press = async () => {
    if (busy) return;
    busy = true;
    try { await onclick(); } finally { busy = false; }
  };
  return make('button', { type: 'button', onclick: press, ...settings }, text);
}

/** A picture of an enrolled face; loaded again where the server was busy. */
export function picture(src, settings) {
  const image = make('img', { loading: 'lazy', ...settings, src });
  let left = 2;
  image.addEventListener('error', () => { if (left-- > 0) setTimeout(() => { image.src = src; }, 1000 * (1 + Math.random())); });
  return image;
}

/** Shows a message, which screen readers read, too; action: a button below it. */
let fading;
export function tell(text, action) {
  clearTimeout(fading);
  news.replaceChildren(make('p', {}, text), ...(action ? [action] : []), button('Close', () => news.replaceChildren(), { className: 'quiet' }));
  if (!action) fading = setTimeout(() => news.replaceChildren(), 8000);
}

/** Reads a text to users of screen readers. */
export function announce(text) {
  said.textContent = text;
}

/** Runs an action, and shows its problem in a place, or as a message where there is none. */
export async function attempt(work, place) {
  try {
    place?.replaceChildren();
    return await work();
  } catch (problem) {
    if (place?.isConnected) place.replaceChildren(problem.message);
    else tell(problem.message);
    if (!problem.body) console.error(problem);
    return undefined;
  }
}

/** Opens the dialog. Messages move into it, because everything else is out of reach while it is open. */
export function open(title, ...contents) {
  const close = button('Close', () => dialog.close(), { className: 'quiet close' });
  dialog.replaceChildren(make('h2', { id: 'dialog-title' }, title), ...contents.flat().filter(Boolean), close, news, said);
  if (!dialog.open) dialog.showModal();
  (dialog.querySelector('input, button:not(.close)') || close).focus();
  return dialog;
}

/** Tells whether the dialog is open. */
export const isAsked = () => dialog.open;

const takeNewsOut = () => dialog.open || document.body.append(news, said);
dialog.addEventListener('close', takeNewsOut);

export function closeDialog() {
  dialog.close();
  takeNewsOut();
}

/** Focuses an element where the focused one was removed. */
export function refocus(element) {
  if (document.activeElement === document.body) element?.focus({ preventScroll: true });
}

/** Asks for a line of text. done: receives it; where it throws, the dialog stays open and shows the reason. */
export function askFor(title, label, action, done, { value = '', note, danger = false, must, list } = {}) {
  const input = make('input', { name: 'answer', value, required: true, maxLength: 500, autocomplete: 'off', 'aria-describedby': note && 'note' });
  const wrong = make('p', { className: 'wrong', role: 'alert' });
  const submit = make('button', { className: danger ? 'danger' : 'main', disabled: must !== undefined }, action);
  if (list) {
    input.setAttribute('list', 'known-names');
    input.addEventListener('input', async () => {
      names.replaceChildren(...(await list(input.value)).map(name => make('option', { value: name })));
    });
  }
  const names = make('datalist', { id: 'known-names' });
  if (must !== undefined) input.addEventListener('input', () => { submit.disabled = input.value !== must; });
  const form = make('form', { className: 'ask' }, note && make('p', { id: 'note' }, note), make('label', {}, label, input), names, wrong, submit);
  form.addEventListener('submit', async event => {
    event.preventDefault();
    const text = input.value.trim();
    if (!text) return wrong.replaceChildren(`Enter something: ${label}.`);
    submit.disabled = true;
    const ended = await attempt(async () => { await done(text); return true; }, wrong);
    submit.disabled = false;
    if (ended && dialog.contains(form)) closeDialog();
  });
  open(title, form);
}

export const number = n => n.toLocaleString('en');
export const percent = share => share >= 0.095 ? `${Math.round(share * 100)} %` : `${(share * 100).toPrecision(1)} %`;
