// The page's scripts are put into one script element in the order of show/page/__init__.py: they share `MB`, and those
// of the token view `MoebenchTokens`, that of its map `MoebenchMap`, and those of the demo `MoebenchLink`,
// `MoebenchPlayer` and `MoebenchDemo`; what else a file declares is its own.
import js from "@eslint/js";
import globals from "globals";

const SHARED = Object.fromEntries(
  ["MB", "MoebenchTokens", "MoebenchMap", "MoebenchLink", "MoebenchPlayer", "MoebenchDemo"].map((name) => [
    name,
    "writable",
  ]),
);

export default [
  js.configs.recommended,
  {
    files: ["mlx_moebench/**/*.js"],
    languageOptions: { sourceType: "script", globals: { ...globals.browser, ...SHARED } },
    rules: {
      complexity: ["error", 12],
      eqeqeq: "error",
      "max-len": ["error", { code: 120, ignoreRegExpLiterals: true }],
      "max-lines": ["error", 400],
      "max-lines-per-function": ["error", { max: 50, skipBlankLines: true, skipComments: true }],
      "no-redeclare": ["error", { builtinGlobals: false }],
      "no-shadow": ["error", { builtinGlobals: false }],
      "no-unused-vars": ["error", { argsIgnorePattern: "^_", varsIgnorePattern: "^Moebench" }],
      "no-use-before-define": "off",
      "no-var": "error",
      "prefer-const": "error",
    },
  },
];
