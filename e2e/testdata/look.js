// Looks at a page as it is laid out now, and returns a list of what is wrong.
(() => {
  const wrong = [];
  const slack = .6; // fractions of pixels

  const name = e => {
    const text = (e.getAttribute('aria-label') || e.innerText || e.name || '').trim().replace(/\s+/g, ' ');
    return e.localName + (e.id ? '#' + e.id : '') + [...e.classList].map(c => '.' + c).join('') + (text ? ` “${text.slice(0, 40)}”` : '');
  };
  // What is for screen readers only, or comes with the keyboard's focus, is not seen.
  const seen = e => e.checkVisibility({ visibilityProperty: true }) && !e.closest('.hidden, .skip');
  const all = selector => [...document.querySelectorAll(selector)].filter(seen);

  // Nothing beside the page.
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) {
    wrong.push(`scrolls sideways: ${document.documentElement.scrollWidth} px of content`);
  }
  for (const e of all('body *')) {
    const r = e.getBoundingClientRect();
    if (!e.closest('svg') && r.width > 0 && (r.left < -slack || r.right > width + slack)) {
      wrong.push(`${name(e)} is from ${r.left} to ${r.right}`);
    }
  }

  // Controls are inside of what they belong to, are large enough for a finger,
  // show all their text, and nothing is in the place of anything else.
  for (const e of all('button, input, a.button')) {
    const r = e.getBoundingClientRect();
    const box = e.closest('.card, .panel, .behind, .lines li, .masthead, main');
    const b = box.getBoundingClientRect();
    // The panel at the side scrolls by itself.
    const scrolls = getComputedStyle(box).overflowY === 'auto';
    if (r.left < b.left - slack || r.right > b.right + slack || !scrolls && (r.top < b.top - slack || r.bottom > b.bottom + slack)) {
      wrong.push(`${name(e)} sticks out of ${name(box)}`);
    }
    if (r.height < 44 - slack) wrong.push(`${name(e)} is ${r.height} px high`);
    if (e.scrollWidth > e.clientWidth + 1) wrong.push(`${name(e)} is too narrow for its text`);
    if (e.localName !== 'input' && e.getClientRects().length === 1 && r.height > 60) wrong.push(`${name(e)} breaks into lines`);
  }
  const parts = all('button, input, .price, .pic, main :is(h1, h2, h3, p), dt, dd, .items li, .masthead a, .user .name, .strip a > span')
    .flatMap(e => [...e.getClientRects()].map(r => [e, r]));
  for (const [i, [e, r]] of parts.entries()) {
    for (const [o, s] of parts.slice(i + 1)) {
      if (!e.contains(o) && !o.contains(e) && Math.min(r.right, s.right) - Math.max(r.left, s.left) > 1 && Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top) > 1) {
        wrong.push(`${name(e)} and ${name(o)} are in one place`);
      }
    }
  }

  // Text has a contrast of 4.5 or more against the worst of what is behind it.
  const colour = text => {
    const n = text.match(/[\d.]+(e-?\d+)?%?/g).map(parseFloat);
    return text.startsWith('color(') ? [n[0] * 255, n[1] * 255, n[2] * 255, n[3] ?? 1] : [n[0], n[1], n[2], n[3] ?? 1];
  };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const light = c => {
    const [r, g, b] = c.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = e => { // every colour that may be behind e
    if (!e) return [[255, 255, 255, 1]];
    const style = getComputedStyle(e);
    const image = style.backgroundImage.match(/(rgba?|color)\([^)]*\)/g);
    const own = (image ?? [style.backgroundColor]).map(colour);
    if (own.every(c => c[3] === 1)) return own;
    return own.flatMap(c => behind(e.parentElement).map(b => over(c, b)));
  };
  const told = new Set();
  for (const e of all('body *')) {
    if (e.closest('svg')) continue;
    const text = e.localName === 'input' ? e.value : [...e.childNodes].filter(n => n.nodeType === Node.TEXT_NODE).map(n => n.data).join('').trim();
    if (!text) continue;
    const ink = colour(getComputedStyle(e).color);
    for (let p = e; p; p = p.parentElement) ink[3] *= getComputedStyle(p).opacity;
    const contrast = Math.min(...behind(e).map(b => {
      const [hi, lo] = [light(over(ink, b)), light(b)].sort((x, y) => y - x);
      return (hi + .05) / (lo + .05);
    }));
    if (contrast < 4.5 && !told.has(e.className + contrast)) {
      told.add(e.className + contrast);
      wrong.push(`${name(e)} has a contrast of ${contrast.toFixed(2)}`);
    }
  }
  return wrong;
})()
