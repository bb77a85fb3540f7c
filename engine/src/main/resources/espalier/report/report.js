"use strict";

// Each figure holds its data: columns of x and of each curve, with null where a curve has no point.

const FONT = "12px " + getComputedStyle(document.body).fontFamily;
const GRID = { stroke: "#ececec", width: 1 };
const CSS_LINES = { LINE: "solid", DASHES: "dashed", DOTS: "dotted" }; // in legends
const FEW = 40; // points that are told apart when each is marked
const MANY = 600; // points that a line hides what is behind it with

// Distances of ticks where x counts steps, layers or SAEs, none of which is ever halved: 1, 2, 5, 10 …
const WHOLE = [...Array(12).keys()].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power));

const number = (v) => Number(v.toPrecision(5)).toLocaleString("en-US", { maximumSignificantDigits: 5 });
const tick = (v) => (v === null ? "" : v !== 0 && Math.abs(v) < 1e-4 ? v.toExponential() : number(v));

// An axis leaves as much room as its longest label needs.
const widthOf = (labels) => (labels === null ? 40 : 22 + 7.2 * Math.max(...labels.map((label) => label.length)));

// The decimal digit that a value on a logarithmic axis begins with.
const leadingDigit = (v) => Math.round(v / 10 ** Math.floor(Math.log10(v) + 1e-9));

// A logarithmic axis begins and ends at a round value: one digit times a power of ten.
const roundDown = (v) => {
  const power = 10 ** Math.floor(Math.log10(v));
  return Math.floor(v / power + 1e-9) * power;
};
const roundUp = (v) => {
  const power = 10 ** Math.floor(Math.log10(v));
  return Math.ceil(v / power - 1e-9) * power;
};

const ranges = {
  LINEAR: undefined,
  FROM_ZERO: (u, min, max) => [0, max > 0 ? 1.08 * max : 1],
  BARS: (u, min, max) => [0, max > 0 ? 1.08 * max : 1],
  LOGARITHMIC: (u, min, max) => {
    const low = roundDown(min);
    const high = roundUp(max);
    return high > low ? [low, high] : [low / 2, 2 * low];
  },
};

// Which of the values 1, 2, … 9 times a power of ten are labelled, by how many decades there are.
const labelled = (u, splits) => {
  const decades = Math.log10(u.scales.y.max / u.scales.y.min);
  const digits = decades > 2.5 ? [1] : decades > 0.8 ? [1, 2, 5] : [1, 2, 3, 4, 5, 6, 7, 8, 9];
  return splits.map((v) => (digits.includes(leadingDigit(v)) ? v : null));
};

function seriesOf({ name, colour, style }, values, bars) {
  const count = values.filter((v) => v !== null).length;
  const few = count <= FEW;
  return {
    label: name,
    stroke: style === "LINE" && count > MANY ? colour + "a0" : colour,
    width: style === "LINE" && count <= MANY ? 2 : 1.5,
    dash: style === "DASHES" ? [6, 4] : undefined,
    fill: bars ? colour + "55" : undefined,
    paths: bars ? uPlot.paths.bars({ size: [0.9, 60] }) : style === "DOTS" ? () => null : undefined,
    points: {
      show: style === "DOTS" || (style === "LINE" && few && !bars),
      size: style === "DOTS" ? 8 : 5,
      fill: style === "DOTS" ? "#fff" : colour,
    },
    spanGaps: true,
    value: (u, v) => (v === null || v === undefined ? "" : number(v)),
  };
}

function draw(figure) {
  const { x, y, axis, doublings, curves, data } = JSON.parse(figure.querySelector("script").textContent);
  const bars = axis === "BARS";
  const logarithmic = axis === "LOGARITHMIC";
  const half = bars ? (data[0][1] - data[0][0]) / 2 : 0;
  const options = {
    width: 560,
    height: 320,
    cursor: { drag: { x: true, y: false } },
    legend: { show: !bars, markers: { dash: (u, i) => CSS_LINES[curves[i - 1].style], width: 2 } },
    scales: {
      x: { time: false, distr: doublings ? 3 : 1, log: 2, range: bars ? (u, min, max) => [min - half, max + half] : undefined },
      y: { distr: logarithmic ? 3 : 1, range: ranges[axis] },
    },
    axes: [
      {
        label: x, labelFont: FONT, font: FONT, labelSize: 22, grid: GRID, ticks: GRID,
        values: (u, v) => v.map(tick),
        incrs: data[0].every(Number.isInteger) ? WHOLE : undefined,
      },
      {
        label: y, labelFont: FONT, font: FONT, labelSize: 22, ticks: GRID,
        grid: logarithmic ? { ...GRID, filter: labelled } : GRID,
        values: (u, v) => v.map(tick),
        size: (u, labels) => widthOf(labels),
        filter: logarithmic ? labelled : undefined,
      },
    ],
    series: [{}, ...curves.map((curve, i) => seriesOf(curve, data[i + 1], bars))],
  };
  // An empty bin gets no bar, which would be a dash on the axis.
  const drawn = bars ? [data[0], data[1].map((v) => v || null)] : data;
  const plot = new uPlot(options, drawn, figure);
  // Curves of one name and colour, such as branches of one run, share a legend.
  const names = curves.map((curve) => curve.name);
  plot.root.querySelectorAll(".u-legend .u-series").forEach((row, i) => {
    if (i > 0 && names.indexOf(names[i - 1]) < i - 1) row.style.display = "none";
  });
}

document.querySelectorAll("figure").forEach(draw);
