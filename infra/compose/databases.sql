-- Beside the catalog of the result tables (database nightblend): that of the Prefect server.
CREATE DATABASE prefect;
