"""The script of pages: the slider between two pictures, and what a box says where it is looked at.

A page reads without it: radio buttons switch the pictures by the style sheet alone, and boxes have
titles. No name comes into it; texts are taken from attributes and set as text.
"""

from __future__ import annotations

import base64
import hashlib

SCRIPT = """
(() => {
  const root = document.documentElement, all = (q, of = document) => [...of.querySelectorAll(q)];
  root.classList.add('js');
  const tip = document.createElement('div');
  tip.id = 'tip';
  tip.ariaHidden = 'true';
  document.body.append(tip);
  const hide = () => tip.classList.remove('on');
  const show = (box) => {
    tip.textContent = box.getAttribute('aria-label');
    tip.classList.add('on');
    const at = box.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const above = at.top - own.height - 8;
    const below = Math.min(at.bottom + 8, innerHeight - own.height - 4);
    tip.style.left = Math.max(4, Math.min(at.left, root.clientWidth - own.width - 4)) + 'px';
    tip.style.top = (above > 4 ? above : below) + 'px';
  };
  const boxOf = (event) => event.target.closest?.('.box');
  // The browser's own hint would stand on top of ours.
  all('.box > title').forEach((title) => title.remove());
  document.addEventListener('pointerover', (event) => {
    const box = boxOf(event);
    if (box) show(box); else if (!document.activeElement?.matches('.box')) hide();
  });
  const cut = (figure, percent) => {
    const at = Math.max(0, Math.min(100, percent));
    figure.style.setProperty('--cut', at + '%');
    all('.cut', figure).forEach((slider) => { slider.value = at; });
  };
  document.addEventListener('focusin', (event) => {
    const box = boxOf(event);
    if (!box) return hide();
    // What has the focus is to be seen.
    const figure = box.closest('.ba'), pane = box.closest('.one, .two');
    if (figure && figure.querySelector('[value=both]:checked')) {
      const whole = pane.getBoundingClientRect(), own = box.getBoundingClientRect();
      const middle = 100 * (own.left + own.width / 2 - whole.left) / whole.width;
      const at = parseFloat(figure.style.getPropertyValue('--cut') || '50');
      if (pane.matches('.one') && middle > at) cut(figure, 100);
      if (pane.matches('.two') && middle < at) cut(figure, 0);
    }
    show(box);
  });
  document.addEventListener('input', (event) => {
    if (event.target.matches('.cut')) cut(event.target.closest('.ba'), +event.target.value);
  });
  const drag = (event) => {
    const panes = event.target.closest?.('.panes');
    const figure = panes?.closest('.ba');
    if (!figure?.querySelector('[value=both]:checked') || !(event.buttons & 1)) return;
    const whole = panes.getBoundingClientRect();
    cut(figure, 100 * (event.clientX - whole.left) / whole.width);
  };
  document.addEventListener('pointermove', drag);
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') return hide();
    const box = boxOf(event), step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (!box || !(event.key in step || event.key === 'Home' || event.key === 'End')) return;
    const boxes = all('.box', box.closest('svg')), last = boxes.length - 1;
    let to = boxes.indexOf(box) + (step[event.key] ?? 0);
    if (event.key === 'Home' || to > last) to = 0;
    else if (event.key === 'End' || to < 0) to = last;
    boxes.forEach((one, k) => { one.setAttribute('tabindex', k === to ? '0' : '-1'); });
    boxes[to].focus();
    event.preventDefault();
  });
  // What is wider than the page is reached by keyboard, too.
  const fit = () => all('.scroll').forEach((area) => {
    if (area.scrollWidth > area.clientWidth + 1) {
      area.tabIndex = 0;
      area.setAttribute('role', 'group');
      area.setAttribute('aria-label', area.querySelector('caption')?.textContent
        || area.querySelector('svg')?.getAttribute('aria-label') || 'Wide table');
    } else {
      ['tabindex', 'role', 'aria-label'].forEach((name) => area.removeAttribute(name));
    }
  });
  fit();
  addEventListener('resize', fit);
  addEventListener('scroll', hide, { passive: true });
  document.addEventListener('toggle', fit, true);
})();
"""

# Nothing but this script runs, whatever a page holds, and nothing is fetched.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'"
)
