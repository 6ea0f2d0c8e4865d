// What the page takes from its libraries; `npm run vendor` in tools/page joins it into vendor.js.

import * as core from "echarts/core";
import { HeatmapChart, LineChart, BarChart } from "echarts/charts";
import { GridComponent, TooltipComponent, VisualMapComponent, DataZoomComponent, AriaComponent } from "echarts/components";
import { CanvasRenderer } from "echarts/renderers";
import { Virtualizer, elementScroll, observeElementOffset, observeElementRect } from "@tanstack/virtual-core";
core.use([HeatmapChart, LineChart, BarChart, GridComponent, TooltipComponent, VisualMapComponent, DataZoomComponent, AriaComponent, CanvasRenderer]);
globalThis.vendor = { echarts: core, Virtualizer, elementScroll, observeElementOffset, observeElementRect };
