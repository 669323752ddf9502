// Small pieces that the views share: elements, news, the dialog.

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

export const button = (text, onclick, settings = {}) => make('button', { type: 'button', onclick, ...settings }, text);

/** Tells what happened, for eyes and screen readers; with a button for what can be done about it. */
let fading;
export function tell(text, action) {
  const news = document.getElementById('news');
  clearTimeout(fading);
  news.replaceChildren(make('p', {}, text), ...(action ? [action] : []), button('Close', () => news.replaceChildren(), { className: 'quiet' }));
  if (!action) fading = setTimeout(() => news.replaceChildren(), 8000);
}

/** Tells those who listen what others see. */
export function announce(text) {
  document.getElementById('said').textContent = text;
}

/** Runs what a button does; tells a problem in the place where it happened, or else as news. */
export async function attempt(work, place) {
  try {
    place?.replaceChildren();
    return await work();
  } catch (problem) {
    if (place) place.replaceChildren(problem.message);
    else tell(problem.message);
    if (!problem.body) console.error(problem);
    return undefined;
  }
}

/** Opens the dialog with these contents. */
export function open(title, ...contents) {
  const dialog = document.getElementById('dialog');
  const close = button('Close', () => dialog.close(), { className: 'quiet close' });
  dialog.replaceChildren(make('h2', { id: 'dialog-title' }, title), ...contents.flat().filter(Boolean), close);
  if (!dialog.open) dialog.showModal();
  dialog.querySelector('input, button:not(.close)')?.focus();
  return dialog;
}

export const closeDialog = () => document.getElementById('dialog').close();

/** Asks for one line of text. done: gets it; where it fails the dialog stays, with the reason. */
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
    submit.disabled = true;
    const ended = await attempt(async () => { await done(input.value.trim()); return true; }, wrong);
    submit.disabled = false;
    if (ended && document.getElementById('dialog').contains(form)) closeDialog();
  });
  open(title, form);
}

export const number = n => n.toLocaleString('en');
export const percent = share => share >= 0.095 ? `${Math.round(share * 100)} %` : `${(share * 100).toPrecision(1)} %`;
