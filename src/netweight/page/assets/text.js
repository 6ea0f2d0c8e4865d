// What the page itself says, in English and Chinese. Names, notes and definitions of columns stay as they are.

const TEXTS = {
  en: {
    about: "About", what: "What", findings: "Findings", notes: "Notes", leftOut: "Left out", heatmap: "Layers and roles", table: "All rows",
    metric: "Metric", model: "Model", outside: "outside the blocks", search: "Search names",
    columns: "Columns", save: "Save as CSV", copy: "Copy", copied: "Copied", rows: "{0} of {1} rows",
    values: "The values as a table", close: "Close", definition: "definition", unit: "unit", value: "value",
    column: "column", layer: "layer", several: "the middle of {0} values", neighbours: "The same layer",
    dark: "Dark", light: "Light", cosines: "Cosines between task vectors", groups: "L2 of the groups", norms: "L2 of the task vectors",
    parameters: "Parameters by part", verdicts: "Verdicts", stored: "How it is stored", roles: "Roles", files: "Files", other: "Without a known role",
    metadata: "Metadata", models: "Models", layerMap: "Which layer is which", histogram: "Distribution of the elements", spectrum: "Singular values",
    fit: "power law of the tail", pair: "Two metrics against each other", across: "Across", upwards: "Upwards", number: "number", valueAxis: "value",
    from: "from", to: "to", elements: "elements", allEqual: "All {0} finite elements are {1}.",
    below: "{0} below {1}, the least {2}", above: "{0} above {1}, the largest {2}",
    tree: "Which descends from which", likeness: "How alike models are: 1 less |b - a| / |a|",
    why: "Why", name: "Name", empty: "No rows.", quantiles: "Quantiles", previous: "Previous", next: "Next",
  },
  zh: {
    about: "概况", what: "项目", findings: "发现", notes: "说明", leftOut: "未计入", heatmap: "层与角色", table: "全部行",
    metric: "指标", model: "模型", outside: "层外", search: "搜索名称",
    columns: "列", save: "存为 CSV", copy: "复制", copied: "已复制", rows: "{1} 行中的 {0} 行",
    values: "以表格显示数值", close: "关闭", definition: "定义", unit: "单位", value: "数值",
    column: "列", layer: "层", several: "{0} 个数值的中位数", neighbours: "同一层",
    dark: "深色", light: "浅色", cosines: "任务向量之间的余弦", groups: "各组的 L2", norms: "任务向量的 L2",
    parameters: "各部分的参数量", verdicts: "判定", stored: "存储方式", roles: "角色", files: "文件", other: "角色未知",
    metadata: "元数据", models: "模型", layerMap: "层的对应关系", histogram: "元素分布", spectrum: "奇异值",
    fit: "尾部的幂律", pair: "两个指标对照", across: "横轴", upwards: "纵轴", number: "序号", valueAxis: "数值",
    from: "自", to: "至", elements: "元素数", allEqual: "{0} 个有限元素均为 {1}。",
    below: "{0} 个低于 {1}，最小 {2}", above: "{0} 个高于 {1}，最大 {2}",
    tree: "谱系", likeness: "模型之间的相似度：1 − |b − a| / |a|",
    why: "原因", name: "名称", empty: "没有行。", quantiles: "分位数", previous: "上一个", next: "下一个",
  },
};

let language = "en";

export function chooseLanguage(wanted) {
  language = wanted in TEXTS ? wanted : "en";
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
}

export function currentLanguage() {
  return language;
}

/** What a picture or a table is called: by a key where there is one, else as it is. */
export function title(key) {
  return Object.hasOwn(TEXTS[language], key) ? TEXTS[language][key] : key;
}

/** The text of a key in the page's language; {0}, {1} are replaced. */
export function say(key, ...values) {
  return TEXTS[language][key].replace(/\{(\d)\}/g, (_, at) => String(values[Number(at)]));
}
